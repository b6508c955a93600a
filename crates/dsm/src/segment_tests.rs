//! Segments against the slow way to say the same: a list of pages.

use super::*;
use proptest::prelude::*;

const NODES: u16 = 4;

#[derive(Clone, Debug)]
struct Shape {
    first: u64,
    local: u64,
    homes: Vec<(u64, u16)>,
}

impl Shape {
    fn pages(&self) -> u64 {
        self.homes.iter().map(|(pages, _)| pages).sum()
    }

    fn segment(&self, stripes: usize) -> Result<Segment, DsmError> {
        let spec = SegmentSpec {
            first_page: self.first,
            pages: self.pages(),
            local: (self.local * PAGE) as *mut u8,
            homes: self
                .homes
                .iter()
                .map(|(pages, node)| (*pages, NodeId(*node)))
                .collect(),
            backing: Backing::Anonymous,
        };
        Segment::new(&spec, NODES, stripes)
    }
}

fn shapes(most_pages: u64) -> impl Strategy<Value = Shape> {
    let homes = proptest::collection::vec((0..=most_pages, 0..NODES), 1..4);
    (0u64..300, 1u64..300, homes).prop_map(|(first, local, homes)| Shape {
        first,
        local,
        homes,
    })
}

proptest! {
    /// Every page has its home, an address of its own and one context; the runs of contexts cover the segment once.
    #[test]
    fn pages_are_where_they_should_be(shape in shapes(3000), stripes in 1usize..5) {
        let pages = shape.pages();
        let Ok(segment) = shape.segment(stripes) else {
            prop_assert_eq!(pages, 0);
            return Ok(());
        };
        let homes = shape.homes.iter().flat_map(|(pages, node)| vec![*node; *pages as usize]);
        for (offset, home) in homes.enumerate() {
            prop_assert_eq!(segment.home(offset as u64), NodeId(home));
            prop_assert_eq!(segment.address(offset as u64), (shape.local + offset as u64) * PAGE);
        }
        let mut next = 0;
        for (run, stripe) in segment.stripe_runs() {
            prop_assert_eq!(run.start, next);
            prop_assert!(stripe < stripes && run.clone().all(|offset| segment.stripe(offset) == stripe));
            next = run.end;
        }
        prop_assert_eq!(next, pages);
    }

    /// The table finds what a search through all segments finds, and takes a segment exactly if it overlaps none.
    #[test]
    fn the_table_finds_what_is_there(shapes in proptest::collection::vec(shapes(40), 1..8), asked in (0u64..400, 0u64..80)) {
        let mut table = SegmentTable::default();
        let mut taken: Vec<Shape> = Vec::new();
        for shape in shapes {
            let Ok(segment) = shape.segment(1) else { continue };
            let apart = |a: u64, b: u64, other: &Shape| a + shape.pages() <= b || b + other.pages() <= a;
            let free = taken
                .iter()
                .all(|other| apart(shape.first, other.first, other) && apart(shape.local, other.local, other));
            prop_assert_eq!(table.insert(Arc::new(segment)).is_ok(), free);
            if free {
                taken.push(shape);
            }
        }
        for number in 0..420u64 {
            let page = taken.iter().find(|shape| (shape.first..shape.first + shape.pages()).contains(&number));
            let found = table.find_page(number).map(|(segment, offset)| (segment.first, offset));
            prop_assert_eq!(found, page.map(|shape| (shape.first, number - shape.first)));
            let local = taken.iter().find(|shape| (shape.local..shape.local + shape.pages()).contains(&number));
            let found = table.find_address(number * PAGE + 77).map(|(segment, offset)| (segment.local, offset));
            prop_assert_eq!(found, local.map(|shape| (shape.local * PAGE, number - shape.local)));
        }
        let (first, pages) = asked;
        let covered: Vec<u64> = table.covered(first, pages).into_iter().flatten().collect();
        let expected: Vec<u64> = (first..first + pages).filter(|page| table.find_page(*page).is_some()).collect();
        prop_assert_eq!(covered, expected);
        if let Some(shape) = taken.first() {
            table.remove(shape.first);
            prop_assert!(table.find_page(shape.first).is_none());
            prop_assert!(table.find_address(shape.local * PAGE).is_none());
        }
    }
}
