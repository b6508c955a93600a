//! Writes the generated part of the corpus: what production makes today. Inputs that somebody found stay as they are.

use std::process::ExitCode;

fn main() -> ExitCode {
    for target in lev_fuzz::targets() {
        let folder = lev_fuzz::corpus(&target);
        let written = std::fs::create_dir_all(&folder).and_then(|()| {
            (target.seeds)()
                .iter()
                .try_for_each(|(name, bytes)| std::fs::write(folder.join(name), bytes))
        });
        if let Err(error) = written {
            eprintln!("error: {}: {error}", folder.display());
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}
