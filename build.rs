//! Gives the binary the commit that it was built from, for `--version`; "unknown" outside git.

use std::process::Command;

fn main() {
    // a package build outside git may say it
    println!("cargo:rerun-if-env-changed=FASTRAC_GATEWAY_COMMIT");
    let given = std::env::var("FASTRAC_GATEWAY_COMMIT").ok().filter(|commit| !commit.is_empty());
    let commit = given.or_else(|| git(&["rev-parse", "--short=12", "HEAD"])).unwrap_or_else(|| "unknown".to_owned());
    println!("cargo:rustc-env=FASTRAC_GATEWAY_COMMIT={commit}");
    // the log of HEAD changes with every commit and checkout; a path that doesn't exist would rebuild each time
    for name in ["HEAD", "logs/HEAD"] {
        if let Some(path) = git(&["rev-parse", "--git-path", name])
            && std::path::Path::new(&path).exists()
        {
            println!("cargo:rerun-if-changed={path}");
        }
    }
    println!("cargo:rerun-if-changed=build.rs");
}

/// What git says, if there is one and it knows this folder.
fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok().filter(|output| output.status.success())?;
    let text = String::from_utf8(output.stdout).ok()?;
    Some(text.trim().to_owned()).filter(|text| !text.is_empty())
}
