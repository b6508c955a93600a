//! Carries commands out.

use crate::clock::monotonic_ns;
use crate::command::{Answer, Command, SoakPlan};
use crate::soak::Soak;
use crate::touch::Pages;
use crate::{census, local, tcp};
use lev_region::{Region, Seat, Shape};
use lev_wire::cluster::Cluster;
use lev_wire::{NodeId, PAGE_SIZE};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Longest wait for other nodes: they are all on this machine.
const LIMIT: Duration = Duration::from_secs(60);
/// An addition that took longer than this had to wait for the page, nanoseconds.
const WAITED_NS: u64 = 4000;
/// Turns are given up when the other side is silent for so long.
const SILENCE: Duration = Duration::from_secs(20);

/// What this process holds.
#[derive(Default)]
pub struct Node {
    seat: Option<Seat>,
    region: Option<Region>,
    /// This node's number, and how many there are.
    place: (u64, u64),
    soak: Option<Soak>,
}

impl Node {
    /// Carries one command out.
    ///
    /// # Errors
    /// What went wrong, for people.
    pub fn run(&mut self, command: Command) -> Result<Answer, String> {
        match command {
            Command::Listen { at } => {
                let at = at.as_deref().unwrap_or("127.0.0.1:0");
                let seat = Seat::at(at).map_err(|error| error.to_string())?;
                let address = seat.address().to_string();
                self.seat = Some(seat);
                Ok(Answer::Address { address })
            }
            Command::Join {
                cluster,
                node,
                limit_ms,
            } => self.join(&cluster, NodeId(node), limit_ms),
            Command::Barrier => {
                let result = self.region()?.barrier(LIMIT);
                result
                    .map(|()| Answer::Done {})
                    .map_err(|error| error.to_string())
            }
            Command::Touch(touch) => {
                let pages = self.pages()?;
                pages.check(touch.first, touch.pages)?;
                Ok(Answer::Samples {
                    ns: pages.touch(touch),
                })
            }
            Command::Threads { threads, touch } => {
                let pages = self.pages()?;
                pages.check(touch.first, touch.pages)?;
                if threads == 0 {
                    return Err("at least one thread".into());
                }
                Ok(Answer::Total {
                    total_ns: pages.touch_from(threads, touch),
                })
            }
            Command::Duel { page, ms } => Ok(duel(self.word(page)?, Duration::from_millis(ms))),
            Command::Turns {
                page,
                turns,
                parity,
            } => take_turns(self.word(page)?, turns, parity),
            Command::Word { page } => Ok(Answer::Word {
                value: self.word(page)?.load(Ordering::Acquire),
            }),
            Command::Counters => {
                let counters = self.region()?.counters().named().into_iter().collect();
                Ok(Answer::Counters { counters })
            }
            Command::Leave => self.leave().map(|()| Answer::Done {}),
            Command::Work { plan, ms, stall_s } => {
                let soak = self.soak(plan)?;
                let (time, stall) = (Duration::from_millis(ms), Duration::from_secs(stall_s));
                let mut soak = soak.work(self.region()?, Some(time), stall)?;
                let answer = soak.report(self.region()?);
                self.soak = Some(soak);
                Ok(answer)
            }
            Command::Verify => {
                let barrier = self.region()?.barrier(LIMIT);
                barrier.map_err(|error| error.to_string())?;
                let soak = self.soak.take().ok_or("nothing was worked on")?;
                let (soak, answer) = soak.verify(self.region()?)?;
                self.soak = Some(soak);
                Ok(answer)
            }
            Command::Live { plan, ms } => {
                let lost = self.live(plan, ms).err();
                let at_ns = monotonic_ns();
                (self.region, self.soak) = (None, None);
                Ok(Answer::Lived { lost, at_ns })
            }
            Command::Census => census::take().map_err(|error| error.to_string()),
            Command::Local { pages } => Ok(Answer::Kinds {
                kinds: local::measure(pages)?,
            }),
            Command::Serve => {
                let address = tcp::serve().map_err(|error| error.to_string())?;
                Ok(Answer::Address { address })
            }
            Command::Ask {
                addresses,
                rounds,
                answer,
                acknowledge,
            } => {
                let ns = tcp::ask(&addresses, rounds, answer, acknowledge)
                    .map_err(|error| error.to_string())?;
                Ok(Answer::Samples { ns })
            }
            Command::Stream {
                address,
                count,
                answer,
            } => {
                let total_ns =
                    tcp::stream(&address, count, answer).map_err(|error| error.to_string())?;
                Ok(Answer::Total { total_ns })
            }
        }
    }

    fn join(&mut self, cluster: &Cluster, me: NodeId, limit_ms: u64) -> Result<Answer, String> {
        let seat = self.seat.take().ok_or("not listening")?;
        let limit = match limit_ms {
            0 => LIMIT,
            limit => Duration::from_millis(limit),
        };
        let region = Shape::of(cluster)
            .and_then(|shape| seat.join(cluster, me, &shape, limit))
            .map_err(|error| error.to_string())?;
        let (base, len) = (region.base() as u64, region.len());
        self.place = (me.0.into(), cluster.nodes.len() as u64);
        self.region = Some(region);
        Ok(Answer::Joined { base, len })
    }

    fn leave(&mut self) -> Result<(), String> {
        let region = self.region.take().ok_or("not in a region")?;
        self.soak = None;
        region.close(LIMIT).map_err(|error| error.to_string())
    }

    /// The soak of this region, from where it was before or from the start.
    fn soak(&mut self, plan: SoakPlan) -> Result<Soak, String> {
        let (node, nodes) = self.place;
        match self.soak.take() {
            Some(soak) => Ok(soak),
            None => Soak::new(self.region()?, &plan, node, nodes),
        }
    }

    /// Works and leaves; the error says who was lost.
    fn live(&mut self, plan: SoakPlan, ms: u64) -> Result<(), String> {
        let time = (ms > 0).then(|| Duration::from_millis(ms));
        let soak = self.soak(plan)?;
        soak.work(self.region()?, time, LIMIT)?;
        self.leave() // others may still work, with pages that are here
    }

    fn region(&self) -> Result<&Region, String> {
        self.region.as_ref().ok_or_else(|| "not in a region".into())
    }

    fn pages(&self) -> Result<Pages, String> {
        let region = self.region()?;
        // SAFETY: the region lives until the command is carried out, and is used by volatile accesses only.
        Ok(unsafe { Pages::new(region.base(), region.len() / PAGE_SIZE as u64) })
    }

    fn word(&self, page: u64) -> Result<&AtomicU64, String> {
        let word = self.region()?.word(page.saturating_mul(PAGE_SIZE as u64));
        word.map_err(|error| error.to_string())
    }
}

/// Adds to `word` until the time is over.
fn duel(word: &AtomicU64, time: Duration) -> Answer {
    let (mut additions, mut ns) = (0, Vec::new());
    let start = Instant::now();
    let mut last = start;
    while last - start < time {
        word.fetch_add(1, Ordering::Relaxed);
        additions += 1;
        let now = Instant::now();
        let took = (now - last).as_nanos() as u64;
        if took > WAITED_NS {
            ns.push(took);
        }
        last = now;
    }
    Answer::Duel { additions, ns }
}

/// Waits for each number of this side's parity below `turns` and makes it one more.
fn take_turns(word: &AtomicU64, turns: u64, parity: u64) -> Result<Answer, String> {
    let start = Instant::now();
    for turn in (0..turns).filter(|turn| turn % 2 == parity) {
        let began = Instant::now();
        while word.load(Ordering::Acquire) != turn {
            std::thread::yield_now(); // the machine may have no core to spare for the engine
            if began.elapsed() > SILENCE {
                return Err(format!("turn {turn} never came"));
            }
        }
        word.store(turn + 1, Ordering::Release);
    }
    Ok(Answer::Total {
        total_ns: start.elapsed().as_nanos() as u64,
    })
}
