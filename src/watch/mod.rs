//! `vxcsum watch`: runs continuously and handles each VXLAN device as it appears or changes.
//!
//! Owns the event loop. An event is a hint, never data: the device is looked at anew, on the path of every other verb.
#![allow(
    clippy::disallowed_macros,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "this file does I/O"
)]

mod manager;
pub mod metrics;
mod signals;

use std::collections::BTreeSet;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use log::{error, info, warn};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use sd_notify::NotifyState;

use self::manager::{Watchdog, notify, tell};
use self::metrics::Metrics;
use self::signals::{Signal, Signals};
use crate::cli::Watch;
use crate::error::{Error, ExitCode};
use crate::fault::{Fault, describe_io};
use crate::link::events_io::{Event, LinkEvents};
use crate::link::peer_events_io::PeerEvents;
use crate::nat::events_io::NftEvents;
use crate::offload::discover_io::Selection;
use crate::offload::node_io::{Node, Options, require_net_admin};
use crate::offload::plan::{Action, ReasonCode, decide_revert};
use crate::offload::record::BACKOFF_SECS;
use crate::offload::report::{DeviceReport, Outcome, Report};
use crate::output::journal_io;

/// More devices than this at once are looked at with one dump.
const FEW: usize = 64;
/// After so many changes all devices are looked at, so that those that are gone leave the record.
const MANY: usize = 256;
/// Long enough for a lock or a busy dump to clear, rare enough to cost nothing.
const AFTER_AN_ERROR: Duration = Duration::from_secs(1);
/// NAT rules that change all the time are read again no more often than this.
const RULES_APART: Duration = Duration::from_secs(10);
/// How long a change of rules may take to be complete: an agent commits several times.
const RULES_SETTLE: Duration = Duration::from_millis(500);
/// Poll interval for changes the kernel does not announce.
const UNANNOUNCED: Duration = Duration::from_secs(60);

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// It cannot begin: the policy is not valid, the kernel cannot be asked, or CAP_NET_ADMIN is missing. Later errors are
/// logged and it goes on.
pub fn run(options: Options, args: Watch) -> Result<ExitCode, Error> {
    require_net_admin()?;
    let signals = Signals::new()
        .map_err(|e| Error::Io(format!("listen for signals: {}", describe_io(&e))))?;
    // First listen, then look: what happens in between is heard.
    let mut events =
        LinkEvents::open().map_err(|e| Fault::kernel("listen for link events", e, None))?;
    let mut node = Node::open(options)?;
    let mut progress = Progress::default();
    progress.look_at_all(&mut node);
    let mut rules = Rules::default();
    rules.follow(&mut node);
    let mut peers = Peers::default();
    peers.follow(&node);
    let mut metrics = args.metrics.map(Metrics::new);
    let mut watchdog = Watchdog::new();
    notify(&[NotifyState::Ready, NotifyState::Status(&progress.status())]);
    loop {
        let timeout = [
            watchdog.time_left(),
            progress.time_left(),
            rules.time_left(),
            peers.time_left(),
            metrics.as_ref().map(Metrics::time_left),
        ]
        .into_iter()
        .flatten()
        .min();
        match wait(
            &events,
            rules.listening(),
            peers.events.as_ref(),
            &signals,
            timeout,
        ) {
            Ok(ready) => {
                if ready.signal {
                    match signals.take() {
                        Signal::Reload => reload(&mut node, &mut progress),
                        Signal::Stop => {
                            notify(&[NotifyState::Stopping]);
                            if args.revert_on_exit {
                                give_back(&mut node)?;
                            }
                            return Ok(ExitCode::Ok);
                        }
                        Signal::None => {}
                    }
                }
                if ready.event {
                    react(&mut node, &mut events, &mut progress);
                }
                if ready.rules {
                    rules.heard();
                }
                let heard_of = peers.take(ready.peers);
                if !heard_of.is_empty() {
                    look_at(&mut node, heard_of, &mut progress);
                }
                let rules_due = rules.due();
                if rules_due {
                    rules.begin_again();
                    // Only if they are others now.
                    node.forget_rules();
                }
                if rules_due || progress.time_left().is_some_and(|left| left.is_zero()) {
                    progress.look_at_all(&mut node);
                    tell(&progress.status());
                }
                rules.follow(&mut node);
                peers.follow(&node);
                if let Some(metrics) = &mut metrics {
                    metrics.write(&mut node);
                }
            }
            Err(e) => return Err(Fault::kernel("wait for events", e, None).into()),
        }
        watchdog.ping();
    }
}

/// What `revert` does, at the end.
fn give_back(node: &mut Node) -> Result<(), Error> {
    let mut locked = node.lock()?;
    let facts = node.look_locked(Selection::All, &locked)?;
    let plan = decide_revert(&facts, &node.verdict);
    let applied = node.carry_out(&plan, &mut locked, true);
    drop(locked);
    let report = Report::applied(&plan, node.kernel_report(), node.backend(), applied.changes);
    journal_io::changes(&report);
    Ok(())
}

/// All that has been heard by now, each device once.
fn react(node: &mut Node, events: &mut LinkEvents, progress: &mut Progress) {
    let mut ifindexes = BTreeSet::new();
    let mut all = false;
    loop {
        match events.next_event() {
            Ok(Event::Link(ifindex)) => {
                ifindexes.insert(ifindex);
            }
            Ok(Event::Nothing) => break,
            // Events were lost, of any device.
            Ok(Event::Overrun) => {
                journal_io::resync();
                all = true;
            }
            Err(e) => {
                error!(
                    "{}; looking at all devices",
                    Fault::kernel("read link events", e, None)
                );
                all = true;
                break;
            }
        }
    }
    if all {
        progress.look_at_all(node);
        tell(&progress.status());
    } else {
        look_at(node, ifindexes, progress);
    }
}

fn look_at(node: &mut Node, ifindexes: BTreeSet<u32>, progress: &mut Progress) {
    if ifindexes.len() > FEW {
        progress.look_at_all(node);
        tell(&progress.status());
    } else if !ifindexes.is_empty() {
        let ifindexes: Vec<u32> = ifindexes.into_iter().collect();
        let before = progress.status();
        progress.look_at(node, &ifindexes);
        let now = progress.status();
        if now != before {
            tell(&now);
        }
    }
}

fn reload(node: &mut Node, progress: &mut Progress) {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let usec = i128::from(now.tv_sec) * 1_000_000 + i128::from(now.tv_nsec / 1000);
    notify(&[NotifyState::Reloading, NotifyState::MonotonicUsec(usec)]);
    match node.reload() {
        Ok(()) => {
            info!("policy reloaded");
            progress.look_at_all(node);
        }
        Err(e) => journal_io::policy_rejected(
            &e,
            "the new policy is refused and the old one stays in force",
        ),
    }
    notify(&[NotifyState::Ready, NotifyState::Status(&progress.status())]);
}

/// The NAT rules, as long as a decision depends on them: when to read them again.
#[derive(Default)]
struct Rules {
    events: Option<NftEvents>,
    /// The kernel has no nf_tables notifications.
    unsupported: bool,
    /// The last decisions depend on the rules.
    relevant: bool,
    /// Something of what they depend on changes unannounced: iptables-legacy, ipsets, sysctls, or new destinations of outer
    /// packets, of which only every neighbour of every device would tell.
    unannounced: bool,
    due: Option<Instant>,
    last: Option<Instant>,
}

impl Rules {
    /// After each look: listens from when the rules matter on, and reads them once more then, for they may have changed
    /// before there was somebody to hear it.
    fn follow(&mut self, node: &mut Node) {
        self.relevant = node.depends_on.rules;
        if self.relevant && self.events.is_none() && !self.unsupported {
            self.last = Some(Instant::now());
            match NftEvents::open() {
                Ok(events) => {
                    self.events = Some(events);
                    self.due = Some(Instant::now() + RULES_SETTLE);
                    node.keep_rules();
                }
                Err(e) => {
                    self.unsupported = true;
                    let fault = Fault::kernel("listen for changes of nf_tables", e, None);
                    warn!("{fault}; they are seen only when something else makes it look");
                }
            }
        }
        self.unannounced = node.rules_change_unannounced() || node.depends_on.destinations;
    }

    /// What to wait for: nothing once a change is known, so that further ones wake nobody.
    fn listening(&self) -> Option<&NftEvents> {
        self.events
            .as_ref()
            .filter(|_| self.relevant && self.due.is_none())
    }

    fn heard(&mut self) {
        let now = Instant::now();
        let rested = self.last.map_or(now, |last| last + RULES_APART);
        self.due = Some(rested.max(now + RULES_SETTLE));
    }

    fn next(&self) -> Option<Instant> {
        let timer = self.last.filter(|_| self.unannounced);
        let timer = timer.map(|last| last + UNANNOUNCED);
        [self.due, timer]
            .into_iter()
            .flatten()
            .min()
            .filter(|_| self.relevant)
    }

    fn time_left(&self) -> Option<Duration> {
        self.next()
            .map(|at| at.saturating_duration_since(Instant::now()))
    }

    fn due(&self) -> bool {
        self.next().is_some_and(|at| at <= Instant::now())
    }

    fn begin_again(&mut self) {
        // First listen, then look: what is announced from here on is another change.
        if let Some(events) = self.events.as_mut() {
            events.drain();
        }
        self.due = None;
        self.last = Some(Instant::now());
    }
}

/// Devices without peers: to be looked at when the first is there.
#[derive(Default)]
struct Peers {
    events: Option<PeerEvents>,
    unsupported: bool,
    /// The devices that are listened for.
    waiting: BTreeSet<u32>,
    /// To be looked at once more: a peer may have come before the socket was there.
    due: BTreeSet<u32>,
}

impl Peers {
    /// After each look: listens as long as there are such devices.
    fn follow(&mut self, node: &Node) {
        let waiting = &node.depends_on.waiting;
        if *waiting == self.waiting || self.unsupported {
            return;
        }
        let new = waiting.difference(&self.waiting).copied();
        self.due = self.due.intersection(waiting).copied().chain(new).collect();
        self.waiting.clone_from(waiting);
        match &self.events {
            _ if waiting.is_empty() => self.events = None,
            Some(events) => events.set_devices(waiting),
            None => match PeerEvents::open(waiting) {
                Ok(events) => self.events = Some(events),
                Err(e) => {
                    self.unsupported = true;
                    let fault = Fault::kernel("listen for forwarding entries", e, None);
                    warn!("{fault}; new peers are seen within a minute");
                }
            },
        }
    }

    /// The devices to look at now.
    fn take(&mut self, heard: bool) -> BTreeSet<u32> {
        let mut out = std::mem::take(&mut self.due);
        if let Some(events) = self.events.as_ref().filter(|_| heard) {
            out.extend(events.drain().unwrap_or_else(|| self.waiting.clone()));
        }
        out
    }

    fn time_left(&self) -> Option<Duration> {
        (!self.due.is_empty()).then_some(Duration::ZERO)
    }
}

/// Running totals for the status line.
#[derive(Debug, Default)]
struct Progress {
    /// How often the feature was turned off.
    changed: usize,
    /// How often it was turned on again.
    given_back: usize,
    /// How often that was when all devices were last looked at.
    changed_by_then: usize,
    /// The devices that are not as they should be.
    failed: BTreeSet<u32>,
    /// When to look at all devices again though nothing is heard of them.
    again: Option<Instant>,
}

impl Progress {
    fn look_at_all(&mut self, node: &mut Node) {
        self.failed.clear();
        self.again = None;
        self.look(node, Selection::All);
        self.changed_by_then = self.changed;
    }

    fn look_at(&mut self, node: &mut Node, ifindexes: &[u32]) {
        for ifindex in ifindexes {
            self.failed.remove(ifindex);
        }
        self.look(node, Selection::ByIfindex(ifindexes));
        if self.changed >= self.changed_by_then + MANY {
            self.look_at_all(node);
        }
    }

    /// A failure is logged and tried again: a watcher that dies watches nothing.
    fn look(&mut self, node: &mut Node, selection: Selection<'_>) {
        let again = match pass(node, selection, self) {
            // No event tells that the backoff, or the wait before giving back, is over.
            Ok(Some(seconds)) => Duration::from_secs(seconds),
            Ok(None) => return,
            Err(e) => {
                error!("{e}; trying again");
                AFTER_AN_ERROR
            }
        };
        let again = Instant::now() + again;
        self.again = Some(self.again.map_or(again, |earlier| earlier.min(again)));
    }

    fn time_left(&self) -> Option<Duration> {
        self.again
            .map(|again| again.saturating_duration_since(Instant::now()))
    }

    /// For `systemctl status`.
    fn status(&self) -> String {
        let mut changed = format!("watching; turned the feature off {} times", self.changed);
        if self.given_back > 0 {
            changed = format!("{changed} and on again {} times", self.given_back);
        }
        match self.failed.len() {
            0 => changed,
            1 => format!("{changed}; 1 device is not as it should be"),
            failed => format!("{changed}; {failed} devices are not as they should be"),
        }
    }
}

/// One pass; in how many seconds there is something to do though no event tells of it.
fn pass(
    node: &mut Node,
    selection: Selection<'_>,
    progress: &mut Progress,
) -> Result<Option<u64>, Error> {
    // Most events ask for nothing: the lock and the record are not touched for those.
    let facts = node.look(selection)?;
    if !matches!(selection, Selection::All) && !node.plan(&facts).asks_for_anything() {
        return Ok(None);
    }
    let mut locked = node.lock()?;
    let facts = node.look_locked(selection, &locked)?;
    let plan = node.plan(&facts);
    let applied = node.carry_out(&plan, &mut locked, matches!(selection, Selection::All));
    drop(locked);
    journal_io::conflicts(&plan, &applied.conflicts);
    let report = Report::applied(&plan, node.kernel_report(), node.backend(), applied.changes);
    journal_io::changes(&report);
    for device in &report.devices {
        match (device.outcome, device.action) {
            (Outcome::Changed, Action::TurnOff) => progress.changed += 1,
            (Outcome::Changed, Action::TurnOn) => progress.given_back += 1,
            _ => {}
        }
    }
    let failed = report
        .devices
        .iter()
        .filter(|device| matches!(device.outcome, Outcome::Failed | Outcome::Refused));
    progress.failed.extend(failed.map(|device| device.ifindex));
    let contested = |device: &DeviceReport<'_>| device.reason.code == ReasonCode::Contested;
    let backoff = report
        .devices
        .iter()
        .any(contested)
        .then_some(BACKOFF_SECS + 1);
    Ok([backoff, plan.next_give_back()].into_iter().flatten().min())
}

/// What there is to do.
#[allow(
    clippy::struct_excessive_bools,
    reason = "one for each descriptor that is waited for"
)]
struct Ready {
    event: bool,
    rules: bool,
    peers: bool,
    signal: bool,
}

fn wait(
    events: &LinkEvents,
    rules: Option<&NftEvents>,
    peers: Option<&PeerEvents>,
    signals: &Signals,
    timeout: Option<Duration>,
) -> Result<Ready, Errno> {
    let mut fds = vec![
        PollFd::from_borrowed_fd(events.as_fd(), PollFlags::IN),
        PollFd::from_borrowed_fd(signals.receiver.as_fd(), PollFlags::IN),
    ];
    let others = [rules.map(AsFd::as_fd), peers.map(AsFd::as_fd)];
    for fd in others.into_iter().flatten() {
        fds.push(PollFd::from_borrowed_fd(fd, PollFlags::IN));
    }
    let timeout = timeout.and_then(|left| Timespec::try_from(left).ok());
    match poll(&mut fds, timeout.as_ref()) {
        Ok(_) | Err(Errno::INTR) => {
            // An overrun shows as an error on the socket.
            let mut ready = fds.iter().map(|fd| !fd.revents().is_empty());
            let mut next = |there: bool| there && ready.next().unwrap_or(false);
            Ok(Ready {
                event: next(true),
                signal: next(true),
                rules: next(rules.is_some()),
                peers: next(peers.is_some()),
            })
        }
        Err(e) => Err(e),
    }
}
