//! What is right in a configuration, and may still not be what is meant.

use super::ServicePort;
use super::file::File;
use super::registry::{PrincipalName, Snapshot};

/// How many ports are named in a warning.
const MOST_PORTS: usize = 10;

/// Ports that lead to devices that nobody has: a typing error, or devices that have yet to join. In one line, however many
/// they are: a slow reader of the log is not to lose others by it.
pub fn unknown_devices(file: &File, known: &Snapshot) -> Option<String> {
    let is_unknown = |port: &&ServicePort| {
        let is_plain = file.plain.as_ref().is_some_and(|plain| plain.device == port.device);
        !is_plain && known.by_name(&PrincipalName::Device(port.device.clone())).is_none()
    };
    let mut unknown = file.ports.iter().filter(is_unknown);
    let text = |ServicePort { listen, device, .. }: &ServicePort| format!("the port {listen} leads to '{device}'");
    let first: Vec<String> = unknown.by_ref().take(MOST_PORTS).map(text).collect();
    let more = match unknown.count() {
        0 => String::new(),
        count => format!(", and {count} more are like these"),
    };
    (!first.is_empty()).then(|| {
        format!(
            "{}{more}, and no device has this name, so nobody reaches it at this port until one has joined",
            first.join(", ")
        )
    })
}

/// Where `new` has nothing left of the addresses that devices know from a relay that was started with `old`: they would
/// look for it in vain. What a port for TLS is called outside, as behind a NAT, is not known here: an address of another port than
/// that leads to wherever it led before.
pub fn lost_addresses(old: &File, new: &File) -> Option<String> {
    let was = old.tls.as_ref()?;
    // A relay that announces none leaves devices with those that they have.
    let announced = if new.addresses.is_empty() { &old.addresses } else { &new.addresses };
    let is_closed = |port: u16| port == was.port() && new.tls.as_ref().is_none_or(|is| port != is.port());
    let remains = new.tls.is_some()
        && old.addresses.iter().any(|address| announced.contains(address) && !is_closed(address.port()));
    if old.addresses.is_empty() || remains {
        return None;
    }
    let known: Vec<String> = old.addresses.iter().map(ToString::to_string).collect();
    let known = known.join(", ");
    Some(if new.tls.is_some() {
        format!(
            "devices look for this relay at {known}, and nothing is left of that here, so that after a restart they look in \
             vain; write the new address beside the old one first, restart, let every device connect, and only then change \
             the rest"
        )
    } else {
        format!(
            "devices look for this relay at {known}, and here is no listen.tls, so that after a restart they look in vain; take \
             it out only where no device with a key is to come again"
        )
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn file(addresses: &str, tls: &str) -> File {
        let text = format!("addresses = [{addresses}]\n[listen]\ntls = \"{tls}\"\n");
        File::parse(&text, Path::new("")).expect("a configuration")
    }

    #[test]
    fn however_many_ports_lead_to_nobody_they_are_one_line() {
        let warning = |ports: u16| {
            let port =
                |port: u16| format!("[[port]]\nlisten = \"127.0.0.1:{}\"\nto = \"pump-{port}:22\"\n", 2000 + port);
            let text = format!("[listen]\ntls = \"[::]:443\"\n{}", (1..=ports).map(port).collect::<String>());
            unknown_devices(&File::parse(&text, Path::new("")).expect("a configuration"), &Snapshot::default())
        };
        assert_eq!(warning(0), None);
        let one = warning(1).expect("a warning");
        assert!(one.starts_with("the port 127.0.0.1:2001 leads to 'pump-1', and no device has this name, so"), "{one}");
        let many = warning(3000).expect("a warning");
        let end = "leads to 'pump-10', and 2990 more are like these, and no device has this name, so nobody";
        assert!(many.contains(end) && many.len() < 1000 && many.lines().count() == 1, "{many}");
    }

    #[test]
    fn a_change_that_leaves_nothing_of_what_devices_were_told_is_warned_of() {
        let old = file("\"a.example:443\", \"b.example:8443\"", "[::]:443");
        for (addresses, tls, is_warned) in [
            ("\"a.example:443\", \"b.example:8443\"", "[::]:443", false),
            ("\"a.example:443\"", "0.0.0.0:443", false),
            ("\"c.example:443\"", "[::]:443", true),
            ("\"a.example:8443\"", "[::]:8443", true),
            // The old one alone is not there any more.
            ("\"a.example:443\"", "[::]:8443", true),
            // It led elsewhere before, and was told.
            ("\"b.example:8443\"", "[::]:8443", false),
            ("\"b.example:8443\"", "[::]:9443", false),
            ("", "[::]:443", false),
        ] {
            let warning = lost_addresses(&old, &file(addresses, tls));
            assert_eq!(warning.is_some(), is_warned, "{addresses} {tls}: {warning:?}");
        }
        let plain = "[listen]\nplain = { listen = \"[::]:2065\", device = \"old\" }\n\
                     [[port]]\nlisten = \"127.0.0.1:2222\"\nto = \"old:22\"\n";
        let plain = |addresses: &str| {
            File::parse(&format!("addresses = [{addresses}]\n{plain}"), Path::new("")).expect("a configuration")
        };
        for addresses in ["", "\"a.example:443\", \"b.example:8443\""] {
            let warning = lost_addresses(&old, &plain(addresses)).expect("a warning");
            assert!(
                warning.contains("b.example:8443, and here is no listen.tls, so that after a restart"),
                "{warning}"
            );
        }
        assert_eq!(lost_addresses(&plain("\"c.example:443\""), &old), None, "nobody was told by it");
        assert_eq!(lost_addresses(&file("", "[::]:443"), &old), None, "nothing was told");
        let warning = lost_addresses(&old, &file("\"c.example:443\"", "[::]:443")).expect("a warning");
        assert!(warning.starts_with("devices look for this relay at a.example:443, b.example:8443, and"), "{warning}");
    }
}
