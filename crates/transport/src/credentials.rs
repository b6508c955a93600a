//! Who a node is, how it proves it, and what a channel is for.

use crate::TransportError;
use lev_wire::cluster::{Cluster, Encrypt};
use lev_wire::NodeId;
use std::fmt;

/// What one node needs to make channels with the other nodes of its run.
#[derive(Clone)]
pub struct Credentials {
    /// The run, the same on every node.
    pub run_id: [u8; 16],
    /// The pre-shared key, the same on every node.
    pub secret: [u8; 32],
    /// This node.
    pub me: NodeId,
    /// Leviathan's version, equal on both sides of a channel.
    pub version: String,
    /// When channels are encrypted.
    pub encrypt: Encrypt,
}

impl Credentials {
    /// The credentials of node `me` of `cluster`, with this build's version.
    ///
    /// # Errors
    /// [`TransportError::Credentials`] if the run id or secret is not hexadecimal of the right length, or `me` is not
    /// in the node list.
    pub fn from_cluster(cluster: &Cluster, me: NodeId) -> Result<Self, TransportError> {
        if me.index() >= cluster.nodes.len() {
            let what = format!("{me} is not among its {} nodes", cluster.nodes.len());
            return Err(TransportError::Credentials { what });
        }
        Ok(Self {
            run_id: hexadecimal("run_id", &cluster.run_id)?,
            secret: hexadecimal("secret", &cluster.secret)?,
            me,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            encrypt: cluster.encrypt,
        })
    }
}

/// Keeps the secret out of logs.
impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("me", &self.me)
            .field("version", &self.version)
            .field("encrypt", &self.encrypt)
            .finish_non_exhaustive()
    }
}

/// Reads `2 * N` hexadecimal digits. The digits themselves stay out of the error: they may be the secret.
fn hexadecimal<const N: usize>(field: &str, text: &str) -> Result<[u8; N], TransportError> {
    let bad = || TransportError::Credentials {
        what: format!(
            "{field} has {} characters instead of {} hexadecimal digits",
            text.len(),
            2 * N
        ),
    };
    let digits = text.as_bytes();
    if digits.len() != 2 * N {
        return Err(bad());
    }
    let digit = |byte: u8| {
        char::from(byte)
            .to_digit(16)
            .and_then(|d| u8::try_from(d).ok())
            .ok_or_else(bad)
    };
    let mut out = [0; N];
    for (byte, pair) in out.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Ok(out)
}

/// What a channel carries; one channel for each, so that none waits behind another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// Slots, routes, life and death of the VM.
    Control,
    /// Exits and ioctls of one vCPU.
    Vcpu(u32),
    /// Interrupts, one way.
    Interrupt,
    /// Pages and the coherence protocol.
    Page,
}

impl Purpose {
    /// The purpose as code and operand.
    pub(crate) fn encode(self) -> (u8, u32) {
        match self {
            Self::Control => (1, 0),
            Self::Vcpu(vcpu) => (2, vcpu),
            Self::Interrupt => (3, 0),
            Self::Page => (4, 0),
        }
    }

    /// The purpose with this code and operand; the operand must be 0 where it has no meaning.
    pub(crate) fn decode(code: u8, operand: u32) -> Result<Self, TransportError> {
        match (code, operand) {
            (1, 0) => Ok(Self::Control),
            (2, vcpu) => Ok(Self::Vcpu(vcpu)),
            (3, 0) => Ok(Self::Interrupt),
            (4, 0) => Ok(Self::Page),
            _ => Err(TransportError::PurposeUnknown { code, operand }),
        }
    }
}

impl fmt::Display for Purpose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Control => f.write_str("control"),
            Self::Vcpu(vcpu) => write!(f, "vCPU {vcpu}"),
            Self::Interrupt => f.write_str("interrupts"),
            Self::Page => f.write_str("pages"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hexadecimal_reads_digits_and_refuses_the_rest() {
        assert_eq!(hexadecimal::<2>("run_id", "00fF").unwrap(), [0x00, 0xff]);
        for bad in ["", "0", "00f", "00ff0", "00fg", "+0ff", "é0f"] {
            let error = hexadecimal::<2>("secret", bad).unwrap_err().to_string();
            assert!(
                error.contains("secret") && error.contains("4 hexadecimal"),
                "{error}"
            );
        }
    }

    #[test]
    fn credentials_come_from_the_cluster_description() {
        let node = |name: &str| lev_wire::cluster::Node {
            name: name.into(),
            address: None,
            vcpus: vec![],
        };
        let mut cluster = Cluster {
            schema: 1,
            run_id: "0123456789abcdef".repeat(2),
            secret: "5a".repeat(32),
            nodes: vec![node("head"), node("worker")],
            memory: vec![],
            pool: None,
            encrypt: Encrypt::On,
            transport: Default::default(),
            engine: Default::default(),
            events: None,
            report: None,
            kept: Vec::new(),
            trace: None,
        };
        let credentials = Credentials::from_cluster(&cluster, NodeId(1)).unwrap();
        assert_eq!(credentials.run_id[..3], [0x01, 0x23, 0x45]);
        assert_eq!(credentials.secret, [0x5a; 32]);
        assert_eq!(
            (credentials.me, credentials.encrypt),
            (NodeId(1), Encrypt::On)
        );
        let error = Credentials::from_cluster(&cluster, NodeId(2)).unwrap_err();
        assert!(error.to_string().contains("node2"), "{error}");
        cluster.secret.replace_range(0..1, "x");
        let error = Credentials::from_cluster(&cluster, NodeId(1)).unwrap_err();
        assert!(
            error.to_string().contains("secret") && !error.to_string().contains("5a5a"),
            "{error}"
        );
    }

    #[test]
    fn debug_hides_the_secret() {
        let credentials = Credentials {
            run_id: [1; 16],
            secret: [0xab; 32],
            me: NodeId(1),
            version: "1.2.3".into(),
            encrypt: Encrypt::On,
        };
        let text = format!("{credentials:?}");
        assert!(!text.contains("171") && !text.contains("secret"), "{text}");
    }

    #[test]
    fn every_purpose_survives_the_wire() {
        for purpose in [
            Purpose::Control,
            Purpose::Vcpu(0),
            Purpose::Vcpu(u32::MAX),
            Purpose::Interrupt,
            Purpose::Page,
        ] {
            let (code, operand) = purpose.encode();
            assert_eq!(Purpose::decode(code, operand), Ok(purpose));
        }
        assert!(Purpose::decode(0, 0).is_err());
        assert!(Purpose::decode(5, 0).is_err());
        assert!(Purpose::decode(1, 7).is_err());
    }
}
