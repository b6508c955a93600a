//! What a check says: named numbers, a verdict with reasons, one line each on stdout.

use std::fmt::Write as _;
use std::io::Write as _;

/// One reported value.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// A signed number (differences of clocks may be negative).
    Int(i128),
    /// A measured quantity, for example seconds.
    Float(f64),
    /// A name.
    Text(String),
    /// Numbers by position, for example per CPU.
    List(Vec<u64>),
    /// Numbers by name, for example per outcome.
    Map(Vec<(String, u64)>),
}

macro_rules! value_from_integer {
    ($($t:ty),*) => {
        $(impl From<$t> for Value {
            fn from(n: $t) -> Value {
                Value::Int(n as i128)
            }
        })*
    };
}
value_from_integer!(u32, u64, usize, i32, i64);

impl From<f64> for Value {
    fn from(x: f64) -> Value {
        Value::Float(x)
    }
}

impl From<&str> for Value {
    fn from(s: &str) -> Value {
        Value::Text(s.to_string())
    }
}

impl From<String> for Value {
    fn from(s: String) -> Value {
        Value::Text(s)
    }
}

impl From<Vec<u64>> for Value {
    fn from(v: Vec<u64>) -> Value {
        Value::List(v)
    }
}

impl From<Vec<(String, u64)>> for Value {
    fn from(v: Vec<(String, u64)>) -> Value {
        Value::Map(v)
    }
}

/// The outcome of one check. It is good until something is found against it.
#[derive(Debug, Clone)]
pub struct Report {
    /// Name of the check, for example `litmus`.
    pub check: String,
    /// What went wrong; empty means that the check passed.
    pub failures: Vec<String>,
    /// Numbers, in the order in which they are printed.
    pub fields: Vec<(String, Value)>,
}

impl Report {
    /// A report without findings.
    pub fn new(check: &str) -> Report {
        Report {
            check: check.to_string(),
            failures: Vec::new(),
            fields: Vec::new(),
        }
    }

    /// Adds a number or a name.
    pub fn with(mut self, key: &str, value: impl Into<Value>) -> Report {
        self.fields.push((key.to_string(), value.into()));
        self
    }

    /// Records findings against the machine.
    pub fn failing(mut self, failures: Vec<String>) -> Report {
        self.failures.extend(failures);
        self
    }

    /// Whether nothing was found.
    pub fn ok(&self) -> bool {
        self.failures.is_empty()
    }

    /// The report as one JSON object on one line.
    pub fn json(&self) -> String {
        let mut out = String::from("{\"check\":");
        json_string(&mut out, &self.check);
        let _ = write!(out, ",\"ok\":{}", self.ok());
        for (key, value) in &self.fields {
            out.push(',');
            json_string(&mut out, key);
            out.push(':');
            json_value(&mut out, value);
        }
        if !self.failures.is_empty() {
            out.push_str(",\"failures\":[");
            for (i, failure) in self.failures.iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                json_string(&mut out, failure);
            }
            out.push(']');
        }
        out.push('}');
        out
    }

    /// The report as text: one line, and one more for each finding.
    pub fn text(&self) -> String {
        let verdict = if self.ok() { "ok  " } else { "FAIL" };
        let mut out = format!("{verdict} {:<11}", self.check);
        for (key, value) in &self.fields {
            let _ = write!(out, " {key}=");
            match value {
                Value::Int(n) => drop(write!(out, "{n}")),
                Value::Float(x) => drop(write!(out, "{x:.3}")),
                Value::Text(s) => out.push_str(s),
                Value::List(v) => drop(write!(out, "{v:?}")),
                Value::Map(m) => {
                    let parts: Vec<String> = m.iter().map(|(k, n)| format!("{k}:{n}")).collect();
                    let _ = write!(out, "{{{}}}", parts.join(" "));
                }
            }
        }
        for failure in &self.failures {
            let _ = write!(out, "\n     {failure}");
        }
        out
    }
}

fn json_string(out: &mut String, s: &str) {
    out.push('"');
    for c in s.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            c if (c as u32) < 0x20 => drop(write!(out, "\\u{:04x}", c as u32)),
            c => out.push(c),
        }
    }
    out.push('"');
}

fn json_value(out: &mut String, value: &Value) {
    match value {
        Value::Int(n) => drop(write!(out, "{n}")),
        // NaN and infinities have no JSON form.
        Value::Float(x) if x.is_finite() => drop(write!(out, "{x:.6}")),
        Value::Float(_) => out.push_str("null"),
        Value::Text(s) => json_string(out, s),
        Value::List(v) => {
            let parts: Vec<String> = v.iter().map(u64::to_string).collect();
            let _ = write!(out, "[{}]", parts.join(","));
        }
        Value::Map(m) => {
            out.push('{');
            for (i, (key, n)) in m.iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                json_string(out, key);
                let _ = write!(out, ":{n}");
            }
            out.push('}');
        }
    }
}

/// Where reports go; counts them for the last line.
pub struct Output {
    json: bool,
    checks: u32,
    failed: u32,
}

impl Output {
    /// Output as JSON lines or as text.
    pub fn new(json: bool) -> Output {
        Output {
            json,
            checks: 0,
            failed: 0,
        }
    }

    /// Prints one report at once (a later hang must not hide it).
    pub fn emit(&mut self, report: &Report) {
        self.checks += 1;
        self.failed += u32::from(!report.ok());
        self.line(&if self.json {
            report.json()
        } else {
            report.text()
        });
    }

    /// Prints the last line; returns whether everything passed. No check at all is no pass.
    pub fn finish(&self) -> bool {
        let pass = self.failed == 0 && self.checks > 0;
        let word = if pass { "pass" } else { "fail" };
        let (checks, failed) = (self.checks, self.failed);
        self.line(&if self.json {
            format!("{{\"result\":\"{word}\",\"checks\":{checks},\"failed\":{failed}}}")
        } else {
            format!("result {word}: {checks} checks, {failed} failed")
        });
        pass
    }

    fn line(&self, text: &str) {
        let mut out = std::io::stdout().lock();
        if writeln!(out, "{text}").and_then(|()| out.flush()).is_err() {
            // Nobody would read the verdict, so there must not be a good exit code.
            std::process::exit(crate::EXIT_CANNOT_RUN);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_line_has_numbers_lists_maps_and_escapes() {
        let report = Report::new("x")
            .with("n", 3u64)
            .with("d", -5i64)
            .with("s", "a\"b\\\n")
            .with("l", vec![1u64, 2])
            .with("m", vec![("k".to_string(), 7u64)])
            .with("f", f64::NAN);
        assert_eq!(
            report.json(),
            r#"{"check":"x","ok":true,"n":3,"d":-5,"s":"a\"b\\\u000a","l":[1,2],"m":{"k":7},"f":null}"#
        );
    }

    #[test]
    fn one_failure_makes_the_report_and_the_run_fail() {
        let report = Report::new("x").failing(vec!["lost 3".into()]);
        assert!(!report.ok());
        assert!(report.json().contains(r#""ok":false"#));
        assert!(report.json().contains(r#""failures":["lost 3"]"#));
        assert!(report.text().starts_with("FAIL"));
        let mut output = Output::new(true);
        output.emit(&Report::new("good"));
        output.emit(&report);
        assert!(!output.finish());
    }

    #[test]
    fn a_run_without_checks_does_not_pass() {
        assert!(!Output::new(true).finish());
    }
}
