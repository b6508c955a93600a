//! The traces of all nodes as one, in the order of the head's clock.

use crate::record::TIME_LIMIT;
use crate::{Header, Homes, Record, Trace, TraceError, MERGED};

/// Joins the traces of the nodes of one run. Events of one time come in the order of their nodes.
///
/// # Errors
/// The files are not of one run: they disagree about the cluster, or two are of one node.
pub fn merge(parts: &[Trace]) -> Result<Trace, TraceError> {
    let Some(first) = parts.first() else {
        return Err(TraceError::Short(0));
    };
    for (index, part) in parts.iter().enumerate() {
        let same = |what, pick: fn(&Header) -> u64| {
            let (first, other) = (pick(&first.header), pick(&part.header));
            if first == other {
                Ok(())
            } else {
                Err(TraceError::Mixed { what, first, other })
            }
        };
        same("the number of nodes", |header| u64::from(header.nodes))?;
        same("promote_after", |header| u64::from(header.promote_after))?;
        same("hold_us", |header| u64::from(header.hold_us))?;
        let node = part.header.node;
        if node == MERGED || parts[..index].iter().any(|old| old.header.node == node) {
            return Err(TraceError::Mixed {
                what: "one of two files of a node",
                first: index as u64,
                other: node.into(),
            });
        }
    }
    // On the head's clock, whose zero may lie anywhere.
    let begin =
        |part: &Trace| i128::from(part.header.start_ns) + i128::from(part.header.clock_offset_ns);
    let start = parts.iter().map(begin).min().unwrap_or(0);
    let mut records: Vec<Record> = Vec::with_capacity(parts.iter().map(|p| p.records.len()).sum());
    for part in parts {
        let late = u64::try_from(begin(part) - start).unwrap_or(u64::MAX);
        let last = part.records.last().map_or(0, |record| record.at_ns);
        if last.saturating_add(late) >= TIME_LIMIT {
            return Err(TraceError::Mixed {
                what: "of two clocks that are years apart, the start",
                first: first.header.start_ns,
                other: part.header.start_ns,
            });
        }
        records.extend(part.records.iter().map(|record| Record {
            at_ns: record.at_ns + late,
            ..*record
        }));
    }
    records.sort_by_key(|record| (record.at_ns, record.node.0));
    let said: Vec<Record> = parts.iter().flat_map(|part| part.homes.records()).collect();
    let homes = Homes::of(said.iter());
    let sum = |pick: fn(&Header) -> u64| {
        let each = parts.iter().map(|part| pick(&part.header));
        each.fold(0, u64::saturating_add)
    };
    let header = Header {
        node: MERGED,
        finished: true,
        start_ns: u64::try_from(start.max(0)).unwrap_or(u64::MAX),
        clock_offset_ns: 0,
        records: (records.len() + homes.runs().len()) as u64,
        dropped: sum(|header| header.dropped),
        cut: sum(|header| header.cut),
        ..first.header
    };
    Ok(Trace {
        header,
        homes,
        records,
    })
}
