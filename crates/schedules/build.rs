//! Takes the files under test as they are, points their `std::sync` at shuttle's, and makes broken copies of them: each with
//! one deliberate mistake, which the models must find.

use std::path::Path;
use std::{env, fs};

/// A file of production, and its mistakes: name of the copy, what stands there, what stands there instead.
struct Source {
    path: &'static str,
    name: &'static str,
    mistakes: &'static [(&'static str, &'static str, &'static str)],
}

const SOURCES: &[Source] = &[
    Source {
        path: "../vcpu/src/door.rs",
        name: "door",
        mistakes: &[
            // Knocks first and posts the poke afterwards.
            (
                "door_pokes_late",
                "        self.poked.store(true, Ordering::SeqCst);\n        self.place\n            .compare_exchange(INSIDE, KICKED, Ordering::SeqCst, Ordering::SeqCst)\n            .is_ok()",
                "        let inside = self.place\n            .compare_exchange(INSIDE, KICKED, Ordering::SeqCst, Ordering::SeqCst)\n            .is_ok();\n        self.poked.store(true, Ordering::SeqCst);\n        inside",
            ),
            // Looks whether somebody knocked before it announces itself.
            (
                "door_looks_early",
                "        self.place.store(INSIDE, Ordering::SeqCst);\n        if self.poked.load(Ordering::SeqCst) {",
                "        let poked = self.poked.load(Ordering::SeqCst);\n        self.place.store(INSIDE, Ordering::SeqCst);\n        if poked {",
            ),
            // Announces the clock only once it is inside.
            (
                "door_announces_late",
                "        self.in_guest_with.store(clock, Ordering::SeqCst);\n        if !self.enter(drain) {\n            self.in_guest_with.store(0, Ordering::SeqCst);\n            return false;\n        }\n        if in_force() != clock {\n            self.leave_guest(drain);\n            return false;\n        }\n        true",
                "        if !self.enter(drain) {\n            return false;\n        }\n        if in_force() != clock {\n            self.leave_guest(drain);\n            return false;\n        }\n        self.in_guest_with.store(clock, Ordering::SeqCst);\n        true",
            ),
        ],
    },
    Source {
        path: "../transport/src/sender.rs",
        name: "sender",
        mistakes: &[
            // The flusher is not told of new work.
            (
                "sender_keeps_silent",
                "        shared.work.notify_one();\n        Ok(())",
                "        Ok(())",
            ),
            // A frame goes to the socket although others wait before it.
            ("sender_overtakes", "    if queued == 0 {", "    if queued < usize::MAX {"),
            // The last sender leaves without a word.
            (
                "sender_leaves_silently",
                "        self.shared.lock().closing = true;\n        self.shared.work.notify_one();",
                "        self.shared.lock().closing = true;",
            ),
            // A channel that ends does not wake the flusher.
            (
                "sender_fails_silently",
                "    sys::shutdown(shared.socket.as_raw_fd());\n    shared.work.notify_one();",
                "    sys::shutdown(shared.socket.as_raw_fd());",
            ),
        ],
    },
    Source {
        path: "../transport/src/outbox.rs",
        name: "outbox",
        mistakes: &[],
    },
    Source {
        path: "../dsm/src/discards.rs",
        name: "discards",
        mistakes: &[
            // Whoever gives up does not wait for those who are about to sleep.
            (
                "discards_gives_up_unlocked",
                "        let _waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);\n        self.done.notify_all();",
                "        self.done.notify_all();",
            ),
            // A page that is done wakes one waiter, which may be another one's.
            (
                "discards_wakes_one",
                "            waiting.remove(&page);\n        }\n        self.done.notify_all();",
                "            waiting.remove(&page);\n        }\n        self.done.notify_one();",
            ),
        ],
    },
];

fn main() {
    let out = env::var("OUT_DIR").expect("cargo sets it");
    for source in SOURCES {
        println!("cargo::rerun-if-changed={}", source.path);
        let text = fs::read_to_string(source.path).expect(source.path);
        // Its own tests belong to its own crate, and its first lines are not a module's here.
        let text = text.split("#[cfg(test)]").next().unwrap_or_default();
        let lines = text.lines().filter(|line| !line.starts_with("//!"));
        let text = lines.collect::<Vec<_>>().join("\n");
        write(&out, source.name, &text);
        for (name, right, wrong) in source.mistakes {
            assert_eq!(
                text.matches(right).count(),
                1,
                "{name}: the place has changed"
            );
            write(&out, name, &text.replace(right, wrong));
        }
    }
}

fn write(out: &str, name: &str, text: &str) {
    let text = text
        .replace("std::sync::", "crate::sync::")
        .replace("std::os::fd::", "crate::socket::");
    fs::write(Path::new(out).join(format!("{name}.rs")), text).expect(out);
}
