//! The command line.
//!
//! Owns names, help texts and defaults of commands and options. Carries nothing out.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::LazyLock;

use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};

use crate::ethtool::BackendName;
use crate::ethtool::backend_io::Choice;
use crate::kernel::bugs;
use crate::text::IfName;

/// Turns one offload off on a VXLAN or Geneve device if this kernel would send its packets with a broken outer UDP checksum.
/// Leaves every other device as it is.
#[derive(Debug, Parser)]
#[command(name = "vxcsum", version = version(), max_term_width = 100, after_help = EXIT_CODES)]
pub struct Cli {
    /// What to do. Without one `--dry-run` means `apply --dry-run`.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// The same as `vxcsum apply --dry-run`.
    #[arg(short = 'n', long)]
    pub dry_run: bool,
    /// With --dry-run: exit 2 if something would be changed.
    #[arg(long, requires = "dry_run")]
    pub exit_code: bool,
    #[command(flatten)]
    pub common: Common,
}

/// The text of `--version`: the version, the commit of the build if it is known, and the date of the table of kernels.
fn version() -> &'static str {
    static TEXT: LazyLock<String> = LazyLock::new(|| {
        let commit = option_env!("VXCSUM_COMMIT").filter(|commit| !commit.is_empty());
        let commit = commit.map_or_else(String::new, |commit| format!("commit {commit}, "));
        let version = env!("CARGO_PKG_VERSION");
        format!("{version} ({commit}kernel table {})", bugs::TABLE_DATE)
    });
    &TEXT
}

impl Cli {
    /// The command, with the options that stood before it.
    ///
    /// # Errors
    /// A text for users that says what is wrong with the options.
    pub fn into_command(self) -> Result<Command, String> {
        let before = (self.dry_run, self.exit_code);
        let join = |dry_run: &mut bool, exit_code: &mut bool| {
            *dry_run |= before.0;
            *exit_code |= before.1;
            if *exit_code && !*dry_run {
                return Err("--exit-code needs --dry-run: give both".to_owned());
            }
            Ok(())
        };
        match self.command {
            Some(Command::Apply(mut args)) => {
                args.devices.append(&mut args.named);
                if args.if_exists && args.devices.is_empty() {
                    return Err("--if-exists needs a device: name one".to_owned());
                }
                join(&mut args.dry_run, &mut args.exit_code)?;
                Ok(Command::Apply(args))
            }
            Some(Command::Revert(mut args)) => {
                args.devices.append(&mut args.named);
                join(&mut args.dry_run, &mut args.exit_code)?;
                Ok(Command::Revert(args))
            }
            Some(_) if self.dry_run => Err(
                "--dry-run belongs to apply and revert: this command changes nothing anyway"
                    .to_owned(),
            ),
            Some(Command::Status(mut args)) => {
                args.devices.append(&mut args.named);
                Ok(Command::Status(args))
            }
            Some(Command::Doctor(mut args)) => {
                args.devices.append(&mut args.named);
                Ok(Command::Doctor(args))
            }
            Some(Command::Export(mut args)) => {
                args.devices.append(&mut args.named);
                Ok(Command::Export(args))
            }
            Some(Command::Explain(mut args)) => {
                args.device = args.device.or(args.named.take());
                Ok(Command::Explain(args))
            }
            Some(command) => Ok(command),
            None if self.dry_run => Ok(Command::Apply(Apply {
                dry_run: true,
                exit_code: self.exit_code,
                ..Apply::default()
            })),
            None => {
                let help = Self::command().render_help();
                Err(format!(
                    "give a command, or --dry-run to see the changes of apply\n\n{help}"
                ))
            }
        }
    }
}

const EXIT_CODES: &str = "\
Exit codes: 0 fine; 1 a device failed, or vxcsum could not run; 2 changes are pending (only with --exit-code), or doctor: packets may be corrupted; 64 wrong \
usage; 77 not permitted; 78 the policy is not valid.";

/// Options of every command.
#[derive(Args, Clone, Debug)]
pub struct Common {
    /// Print JSON instead of text.
    #[arg(long, global = true, help_heading = "Global options")]
    pub json: bool,
    /// Log changes and failures (to the journal, else to stderr with priorities) and print no report. For units and containers.
    #[arg(long, global = true, help_heading = "Global options")]
    pub log: bool,
    /// Print only errors.
    #[arg(short, long, global = true, help_heading = "Global options")]
    pub quiet: bool,
    /// When to colour the text.
    #[arg(long, global = true, help_heading = "Global options", value_enum, default_value_t = ColorArg::Auto, value_name = "WHEN")]
    pub color: ColorArg,
    /// Where log records go.
    #[arg(long, global = true, help_heading = "Global options", value_enum, default_value_t = LogTarget::Auto, value_name = "WHERE")]
    pub log_target: LogTarget,
    /// Read this policy, and nothing else, instead of the installed files.
    #[arg(
        long,
        global = true,
        help_heading = "Global options",
        value_name = "FILE"
    )]
    pub policy: Option<PathBuf>,
    /// Which interface of the kernel to use.
    #[arg(long, global = true, help_heading = "Global options", value_enum, default_value_t = BackendArg::Auto, value_name = "WHICH")]
    pub backend: BackendArg,
    /// Read policy, os-release, version_signature and the files of other programs below this directory, and keep /run/vxcsum there.
    #[arg(
        long,
        global = true,
        help_heading = "Global options",
        value_name = "DIR",
        default_value = "/"
    )]
    pub root: PathBuf,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum LogTarget {
    /// The journal if stderr is connected to it, else stderr.
    Auto,
    /// stderr.
    Stderr,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum BackendArg {
    /// Netlink, or the ioctl where the kernel has no such netlink.
    Auto,
    /// ethtool netlink (5.7 and newer, and some backports).
    Netlink,
    /// SIOCETHTOOL (every kernel).
    Ioctl,
}

impl From<BackendArg> for Choice {
    fn from(arg: BackendArg) -> Self {
        match arg {
            BackendArg::Auto => Self::Auto,
            BackendArg::Netlink => Self::Only(BackendName::Netlink),
            BackendArg::Ioctl => Self::Only(BackendName::Ioctl),
        }
    }
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Turn the offload off on the devices that need it.
    #[command(
        after_help = "Examples:\n  vxcsum apply --dry-run     show what would be changed\n  vxcsum apply flannel.1     change one device, also if it is contested\n\nSee vxcsum(8)."
    )]
    Apply(Apply),
    /// Turn the offload back on where vxcsum turned it off.
    Revert(Revert),
    /// Run continuously and handle each VXLAN and Geneve device as it appears or changes.
    Watch(Watch),
    /// Show every VXLAN and Geneve device, its state and what apply would do.
    #[command(
        after_help = "Examples:\n  vxcsum status\n  vxcsum status --exit-code --quiet     for a monitor: 0 fine, 2 something to do\n\nSee vxcsum(8)."
    )]
    Status(StatusArgs),
    /// Explain the decision for a device, and how to change it.
    #[command(
        after_help = "Examples:\n  vxcsum explain flannel.1\n  vxcsum explain --kernel 4.18.0-147.5.1.el8_1.x86_64\n\nSee vxcsum(8)."
    )]
    Explain(Explain),
    /// Measure whether this kernel corrupts packets, in a private network namespace.
    Probe(Probe),
    /// Diagnose this node: NAT rules, kernel, offload, the evidence, and what to do.
    #[command(
        after_help = "Examples:\n  vxcsum doctor\n  vxcsum doctor --watch 10     and count wrong checksums for 10 seconds\n\nSee vxcsum(8)."
    )]
    Doctor(Doctor),
    /// Print a configuration that does nearly the same with another program. Its comments state the limits.
    #[command(
        after_help = "Examples:\n  vxcsum export link flannel.1 > 10-vxcsum-export.link\n  vxcsum export ansible\n\nSee vxcsum(8)."
    )]
    Export(Export),
    /// Check or show the policy.
    #[command(subcommand)]
    Policy(PolicyCommand),
    /// Print the completions for a shell.
    #[command(hide = true)]
    Completions {
        /// Which shell.
        #[arg(value_enum)]
        shell: Shell,
    },
    /// Print a manual page, as roff.
    #[command(hide = true)]
    Man {
        /// Which page.
        #[arg(value_enum, default_value_t = Page::Vxcsum)]
        page: Page,
    },
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Shell {
    Bash,
    Zsh,
    Fish,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Page {
    /// vxcsum(8)
    Vxcsum,
    /// vxcsum-policy(5)
    VxcsumPolicy,
}

#[derive(Args, Debug, Default)]
pub struct Apply {
    /// Show the changes, and make none.
    #[arg(short = 'n', long)]
    pub dry_run: bool,
    /// Only these devices; without any, all.
    #[arg(value_name = "DEVICE", value_parser = if_name())]
    pub devices: Vec<IfName>,
    /// The same as DEVICE (may be given more than once).
    #[arg(long = "device", value_name = "NAME", value_parser = if_name())]
    pub named: Vec<IfName>,
    /// It is no error if a named device is not there, or is no VXLAN or Geneve device: the report says so.
    #[arg(long)]
    pub if_exists: bool,
    /// Only the device of this kernel event, if it is still there. For the udev rule.
    #[arg(long, hide = true, value_name = "IFINDEX:SEQNUM", value_parser = event_ifindex, conflicts_with_all = ["devices", "named"])]
    pub uevent: Option<u32>,
    /// With --dry-run: exit 2 if something would be changed.
    #[arg(long)]
    pub exit_code: bool,
}

#[derive(Args, Debug)]
pub struct Revert {
    /// Show the changes, and make none.
    #[arg(short = 'n', long)]
    pub dry_run: bool,
    /// Only these devices; without any, all.
    #[arg(value_name = "DEVICE", value_parser = if_name())]
    pub devices: Vec<IfName>,
    /// The same as DEVICE (may be given more than once).
    #[arg(long = "device", value_name = "NAME", value_parser = if_name())]
    pub named: Vec<IfName>,
    /// With --dry-run: exit 2 if something would be turned on again.
    #[arg(long)]
    pub exit_code: bool,
}

#[derive(Args, Debug)]
pub struct StatusArgs {
    /// Only these devices; without any, all.
    #[arg(value_name = "DEVICE", value_parser = if_name())]
    pub devices: Vec<IfName>,
    /// The same as DEVICE (may be given more than once).
    #[arg(long = "device", value_name = "NAME", value_parser = if_name())]
    pub named: Vec<IfName>,
    /// Exit 2 if apply would change something, or if packets may be corrupted.
    #[arg(long)]
    pub exit_code: bool,
    /// Print for a monitoring program instead of for people.
    #[arg(long, value_enum, value_name = "FORMAT", conflicts_with = "json")]
    pub format: Option<Format>,
    /// Replace this file with the metrics in one step, and print nothing.
    #[arg(long, value_name = "FILE", requires = "format")]
    pub output: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ColorArg {
    /// In a terminal, unless NO_COLOR is set or TERM is dumb.
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Metrics for Prometheus, as node_exporter's textfile collector reads them.
    Prometheus,
    /// A line for node-problem-detector. Exit 0: fine; 1: a problem; 2: not known.
    Npd,
}

#[derive(Args, Debug, Default)]
pub struct Watch {
    /// Keep metrics for Prometheus in this file: each half minute it is replaced in one step.
    #[arg(long, value_name = "FILE")]
    pub metrics: Option<PathBuf>,
    /// Take charge: while this runs, the units and other watches of this machine change nothing.
    #[arg(long)]
    pub exclusive: bool,
    /// On SIGTERM or SIGINT turn on again what vxcsum turned off. Without this option the devices stay as they are.
    #[arg(long)]
    pub revert_on_exit: bool,
}

#[derive(Args, Debug)]
pub struct Explain {
    /// Explain the decision about this device; without one, the verdict on this kernel.
    #[arg(value_name = "DEVICE", value_parser = if_name(), conflicts_with = "kernel")]
    pub device: Option<IfName>,
    /// The same as DEVICE.
    #[arg(long = "device", value_name = "NAME", value_parser = if_name(), conflicts_with_all = ["device", "kernel"])]
    pub named: Option<IfName>,
    /// Judge a kernel of any machine by its `uname -r`, without a look at this machine.
    #[arg(long, value_name = "RELEASE")]
    pub kernel: Option<String>,
    /// That machine's `uname -v`: Debian's real version is only there.
    #[arg(long, value_name = "TEXT", requires = "kernel")]
    pub uname_version: Option<String>,
    /// That machine's /proc/version_signature (Ubuntu).
    #[arg(long, value_name = "TEXT", requires = "kernel")]
    pub version_signature: Option<String>,
    /// A copy of that machine's /etc/os-release.
    #[arg(long, value_name = "FILE", requires = "kernel")]
    pub os_release: Option<PathBuf>,
    /// Judge the kernels of many machines: the output of `kubectl get nodes -o json`, or one `uname -r` a line (- is standard
    /// input).
    #[arg(long, value_name = "FILE", conflicts_with_all = ["device", "kernel"])]
    pub nodes: Option<PathBuf>,
}

#[derive(Args, Debug)]
pub struct Probe {
    /// Measure in the network namespace of this process, which must be empty: for vxcsum-probe.service.
    #[arg(long, hide = true)]
    pub private_network: bool,
}

#[derive(Args, Debug)]
pub struct Doctor {
    /// Only these devices; without any, all.
    #[arg(value_name = "DEVICE", value_parser = if_name())]
    pub devices: Vec<IfName>,
    /// The same as DEVICE (may be given more than once).
    #[arg(long = "device", value_name = "NAME", value_parser = if_name())]
    pub named: Vec<IfName>,
    /// The default: exit 2 if packets may be corrupted.
    #[arg(long, hide = true)]
    pub exit_code: bool,
    /// Sample the error counters for SECONDS seconds and show the increase.
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub watch: Option<u32>,
}

#[derive(Args, Debug)]
pub struct Export {
    /// What to print.
    #[arg(value_enum)]
    pub format: ExportFormat,
    /// For these devices, of this machine or of another; without any, for all that are here.
    #[arg(value_name = "DEVICE", value_parser = if_name())]
    pub devices: Vec<IfName>,
    /// The same as DEVICE (may be given more than once).
    #[arg(long = "device", value_name = "NAME", value_parser = if_name())]
    pub named: Vec<IfName>,
}

codes! {
    /// For whom `export` prints.
    #[derive(ValueEnum)]
    pub enum ExportFormat {
        /// A .link file for systemd-udevd.
        Link = "link",
        /// A udev rule that runs ethtool.
        Udev = "udev",
        /// A part of a profile of NetworkManager.
        Networkmanager = "networkmanager",
        /// A patch for the machine configuration of Talos Linux.
        Talos = "talos",
        /// A configuration for butane (Fedora CoreOS, Flatcar).
        Butane = "butane",
        /// A MachineConfig for OpenShift.
        Machineconfig = "machineconfig",
        /// A playbook that installs vxcsum.
        Ansible = "ansible",
        /// A patch for Calico's FelixConfiguration.
        Felix = "felix",
        /// The commands that keep outer packets out of connection tracking.
        NftablesNotrack = "nftables-notrack",
    }
}

#[derive(Debug, Subcommand)]
pub enum PolicyCommand {
    /// Say whether a policy file, or the installed policy, is valid.
    Check {
        /// The file; without one, the installed policy.
        file: Option<PathBuf>,
    },
    /// Print the policy in use, and the origin of each value.
    Show,
}

fn seconds(text: &str) -> Result<u32, String> {
    let seconds = text.parse().ok().filter(|n| (1..=3600).contains(n));
    seconds.ok_or_else(|| "give a number of seconds from 1 to 3600".to_owned())
}

/// A device name of any bytes.
fn if_name() -> impl clap::builder::TypedValueParser<Value = IfName> {
    use clap::builder::TypedValueParser;
    clap::builder::OsStringValueParser::new().try_map(|name: OsString| {
        IfName::new(name.as_bytes()).ok_or(
            "no device can have this name: a name has 1 to 15 bytes, without '/' and white space",
        )
    })
}

/// The ifindex in `IFINDEX:SEQNUM`. The sequence number only makes the name of the unit instance unique: see
/// `vxcsum@.service`.
fn event_ifindex(text: &str) -> Result<u32, String> {
    let numbers = text.split_once(':').and_then(|(ifindex, seqnum)| {
        seqnum.parse::<u64>().ok()?;
        ifindex.parse().ok().filter(|ifindex| *ifindex > 0)
    });
    numbers.ok_or_else(|| "an event is IFINDEX:SEQNUM, two numbers".to_owned())
}

#[cfg(test)]
mod tests {
    #[test]
    fn events_are_two_numbers() {
        for (text, ifindex) in [
            ("7:1234", Some(7)),
            ("4294967295:0", Some(u32::MAX)),
            ("0:1", None),
            ("7", None),
            ("7:", None),
            (":7", None),
            ("7:x", None),
            ("-1:1", None),
            ("flannel.1", None),
        ] {
            assert_eq!(super::event_ifindex(text).ok(), ifindex, "{text}");
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        super::Cli::command().debug_assert();
    }
}
