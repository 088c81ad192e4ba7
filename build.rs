//! Link arguments of the Lua module, and the version that the programs print.

use std::fs;
use std::path::Path;
use std::process::Command;

/// `git archive` writes the commit into it.
const COMMIT: &str = "packaging/commit";

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    match std::env::var("CARGO_CFG_TARGET_OS").as_deref() {
        // Lua unloads its modules at state close, and the loop thread may still be on its last instructions.
        Ok("linux" | "android") => println!("cargo:rustc-cdylib-link-arg=-Wl,-z,nodelete"),
        // Lua's functions come from the interpreter that loads the module.
        Ok("macos") => println!("cargo:rustc-cdylib-link-arg=-Wl,-undefined,dynamic_lookup"),
        _ => {}
    }
    let version = env!("CARGO_PKG_VERSION");
    // Debug builds leave the commit out, or every commit would have all the tests built again.
    let commit = if std::env::var("PROFILE").as_deref() == Ok("release") { commit() } else { None };
    let full = commit.map_or_else(|| version.to_owned(), |commit| format!("{version} ({commit})"));
    println!("cargo:rustc-env=TCPREMOTE_VERSION={full}");
}

/// The first digits of the commit: from the file in a source archive, from git in a clone.
fn commit() -> Option<String> {
    println!("cargo:rerun-if-changed={COMMIT}");
    let archived = fs::read_to_string(COMMIT).ok()?;
    if !archived.contains("Format") {
        return archived.get(..12).map(str::to_owned);
    }
    // The log of HEAD grows by a line whenever HEAD becomes another commit. A path that is not there would have cargo
    // build this again each time.
    let log = git(&["rev-parse", "--git-path", "logs/HEAD"])?;
    if Path::new(&log).exists() {
        println!("cargo:rerun-if-changed={log}");
    }
    git(&["rev-parse", "--short=12", "HEAD"])
}

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok().filter(|output| output.status.success())?;
    String::from_utf8(output.stdout).ok().map(|text| text.trim().to_owned())
}
