//! The calls on guest memory against a model: which pages have contents, and which.

use super::*;
use proptest::prelude::*;

const PAGES: u64 = 16;

fn map(backing: Backing) -> u64 {
    let kind = match backing {
        Backing::Anonymous => libc::MAP_PRIVATE,
        Backing::Shmem => libc::MAP_SHARED,
    };
    let rights = libc::PROT_READ | libc::PROT_WRITE;
    let len = (PAGES * PAGE) as usize;
    // SAFETY: a new mapping at an address of the kernel's choice replaces nothing; each test gives it back.
    let address = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            len,
            rights,
            kind | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    assert_ne!(address, libc::MAP_FAILED);
    forbid_huge_pages(address as u64, len as u64).unwrap();
    address as u64
}

fn write(address: u64, byte: u8) {
    // SAFETY: a page of the test's own mapping.
    unsafe { std::ptr::write_bytes(address as *mut u8, byte, PAGE_SIZE) };
}

fn agrees(backing: Backing, changes: &[(u64, Option<u8>)]) -> Result<(), TestCaseError> {
    let start = map(backing);
    let address = |page: u64| start + page * PAGE;
    let mut model: Vec<Option<u8>> = vec![None; PAGES as usize];
    let mut buffer = PageBuffer::new();
    for (page, change) in changes {
        match change {
            Some(byte) => write(address(*page), *byte),
            None => remove(address(*page), PAGE, backing).unwrap(),
        }
        model[*page as usize] = *change;
        let there = populated(start, PAGES, backing).unwrap();
        prop_assert!(
            there.windows(2).all(|pair| pair[0].end < pair[1].start),
            "{there:?}"
        );
        let there: Vec<u64> = there.into_iter().flatten().collect();
        let expected = (0..PAGES).filter(|page| model[*page as usize].is_some());
        prop_assert_eq!(there, expected.collect::<Vec<_>>());
        // Looking must not make a page: for shared memory a read would.
        let present = resident_run(start, PAGES).unwrap();
        for (page, contents) in model.iter().enumerate() {
            prop_assert_eq!(present[page], contents.is_some());
            let empty = present[page] && looks_empty(address(page as u64));
            prop_assert_eq!(empty, *contents == Some(0));
        }
    }
    for (page, contents) in (0..PAGES).zip(&model) {
        let there = read_page(address(page), backing, &mut buffer).unwrap();
        prop_assert!(there == contents.is_some() || backing == Backing::Shmem);
        prop_assert_eq!(buffer.is_zero(), contents.unwrap_or(0) == 0);
        prop_assert!(buffer.0.iter().all(|byte| *byte == contents.unwrap_or(0)));
    }
    unmap(start, PAGES * PAGE);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn pages_that_come_and_go(
        changes in proptest::collection::vec((0..PAGES, proptest::option::weighted(0.7, 0u8..4)), 1..30),
        shared: bool,
    ) {
        agrees(if shared { Backing::Shmem } else { Backing::Anonymous }, &changes)?;
    }
}
