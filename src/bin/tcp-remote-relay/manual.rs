//! Writes the relay's manual pages and completions below a directory, from the definitions of its command lines.

#![allow(dead_code, reason = "of the command lines only their definitions are used here")]

mod ask;
mod commands;
mod files;
mod init;
mod log;
mod output;
mod positional;
mod process;
mod rotate;
mod run;

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::Command;
use clap_complete::{Shell, generate_to};
use clap_mangen::Man;

const NAME: &str = "tcp-remote-relay";
/// System administration.
const SECTION: &str = "8";
const SHELLS: [(Shell, &str); 3] = [(Shell::Bash, "bash"), (Shell::Zsh, "zsh"), (Shell::Fish, "fish")];

fn main() -> io::Result<()> {
    let directory = std::env::args_os().nth(1).map(PathBuf::from);
    write_all(&directory.ok_or_else(|| io::Error::other("usage: manual DIRECTORY"))?)
}

fn write_all(directory: &Path) -> io::Result<()> {
    let pages = directory.join("man");
    fs::create_dir_all(&pages)?;
    let mut commands = commands::definition().disable_help_subcommand(true);
    commands.build();
    for command in commands.get_subcommands() {
        write_page(command, &pages)?;
    }
    write_main_page(&commands, &pages)?;
    let mut all = positional::definition().subcommands(commands::definition().get_subcommands().cloned());
    for (shell, name) in SHELLS {
        let directory = directory.join("completions").join(name);
        fs::create_dir_all(&directory)?;
        generate_to(shell, &mut all, NAME, directory)?;
    }
    Ok(())
}

/// The page of a command, and those of the commands below it.
fn write_page(command: &Command, pages: &Path) -> io::Result<()> {
    for below in command.get_subcommands() {
        write_page(below, pages)?;
    }
    let man = page(command.clone());
    let mut text = Vec::new();
    man.render(&mut text)?;
    write(&pages.join(man.get_filename()), &text)
}

/// The page of both command lines: that with commands, and as a section of its own that with addresses.
fn write_main_page(commands: &Command, pages: &Path) -> io::Result<()> {
    let (man, other) = (page(commands.clone()), page(positional::definition()));
    let mut text = Vec::new();
    man.render_title(&mut text)?;
    man.render_name_section(&mut text)?;
    man.render_synopsis_section(&mut text)?;
    man.render_subcommands_section(&mut text)?;
    man.render_extra_section(&mut text)?;
    let mut section = Vec::new();
    other.render_synopsis_section(&mut section)?;
    other.render_description_section(&mut section)?;
    other.render_options_section(&mut section)?;
    other.render_extra_section(&mut section)?;
    writeln!(text, ".SH \"WITHOUT A COMMAND\"")?;
    text.extend(with_notes(&section).replace(".SH ", ".SS ").into_bytes());
    write(&pages.join(man.get_filename()), &text)
}

fn page(command: Command) -> Man {
    let source = format!("{NAME} {}", env!("CARGO_PKG_VERSION"));
    Man::new(command).section(SECTION).source(source).manual("System Administration")
}

fn write(path: &Path, text: &[u8]) -> io::Result<()> {
    fs::write(path, with_notes(text))
}

/// Examples and exit statuses under the name that man-pages(7) has for what is left; the library calls them EXTRA.
fn with_notes(text: &[u8]) -> String {
    String::from_utf8_lossy(text).replace(".SH EXTRA", ".SH NOTES")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_a_page_for_each_command_and_the_main_page_has_both_command_lines() {
        let directory = tempfile::tempdir().expect("a directory");
        write_all(directory.path()).expect("written");
        let page = |name: &str| {
            let text = fs::read_to_string(directory.path().join(format!("man/{name}.8"))).expect(name);
            text.replace("\\-", "-")
        };
        let main = page(NAME);
        for command in commands::definition().get_subcommands() {
            let name = format!("{NAME}-{}", command.get_name());
            assert!(main.contains(&format!("\n{name}(8)\n")), "{name}: {main}");
            assert!(page(&name).contains(".SH NOTES\nExample") || command.has_subcommands(), "{name}");
        }
        assert!(page("tcp-remote-relay-token-device").contains("--uses"));
        assert!(main.contains(" [OPTIONS] SERVER CLIENT SERVICE"), "{main}");
    }

    #[test]
    fn a_shell_offers_the_commands_and_the_options() {
        let directory = tempfile::tempdir().expect("a directory");
        write_all(directory.path()).expect("written");
        let file = |name: &str| directory.path().join("completions").join(name);
        let offered = |line: &[&str]| {
            let script = r#"source "$0"; function=$(complete -p "$1" | sed 's/.*-F \([^ ]*\).*/\1/')
                COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)); $function "$1" "${@: -1}"; echo "${COMPREPLY[*]}""#;
            let mut command = std::process::Command::new("bash");
            command.args(["-c", script]).arg(file("bash/tcp-remote-relay.bash")).args(line);
            let output = command.output().expect("bash");
            assert!(output.status.success(), "{output:?}");
            String::from_utf8(output.stdout).expect("text").trim().to_owned()
        };
        assert_eq!(offered(&[NAME, "token", "d"]), "device delete");
        assert_eq!(offered(&[NAME, "--half"]), "--half-close");
        for name in ["zsh/_tcp-remote-relay", "fish/tcp-remote-relay.fish"] {
            assert!(fs::read_to_string(file(name)).expect(name).contains("rotate-key"), "{name}");
        }
    }
}
