//! Why a node counts as lost.

use serde::{Deserialize, Serialize};
use std::time::Duration;

/// What is known of a node's end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loss {
    /// One clause.
    pub reason: String,
    /// Nothing was heard of it for too long. Who has left by itself may have said why, somewhere; a silent node has not.
    #[serde(default)]
    pub silent: bool,
}

impl Loss {
    /// No beat came for so long.
    #[must_use]
    pub fn silence(silence: Duration) -> Self {
        Self {
            reason: format!("silent for {:.1} s", silence.as_secs_f64()),
            silent: true,
        }
    }
}

impl From<String> for Loss {
    /// It left, or broke a rule.
    fn from(reason: String) -> Self {
        Self {
            reason,
            silent: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_silence_counts_as_silence_whatever_a_reason_says() {
        assert!(Loss::silence(Duration::from_millis(4_250)).silent);
        assert!(!Loss::from("silent for 4.2 s".to_owned()).silent);
        let old: Loss = serde_json::from_str(r#"{"reason":"closed"}"#).unwrap();
        assert_eq!(old, Loss::from("closed".to_owned()));
    }
}
