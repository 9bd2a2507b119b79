//! `vxcsum watch`: runs continuously and handles each VXLAN device as it appears or changes.
//!
//! Owns the event loop. An event is only a hint: each device is read again, in the same way as for every other verb.
#![allow(
    clippy::disallowed_macros,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "this file does I/O"
)]

mod manager;
pub(crate) mod metrics;
mod policy_events;
mod signals;

use std::collections::BTreeSet;
use std::io::{self, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use log::{error, info, warn};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use sd_notify::NotifyState;

use self::manager::{Watchdog, notify, set_status};
use self::metrics::Metrics;
use self::policy_events::PolicyEvents;
use self::signals::{Signal, Signals};
use crate::cli::Watch;
use crate::error::{Error, ExitCode};
use crate::fault::{Fault, describe_io};
use crate::link::events_io::{Event, LinkEvents};
use crate::link::peer_events_io::PeerEvents;
use crate::nat::events_io::NftEvents;
use crate::offload::discover_io::Selection;
use crate::offload::facts::Device;
use crate::offload::judge::ReasonCode;
use crate::offload::node_io::{Node, Options, announce, require_net_admin};
use crate::offload::plan::{Action, decide_revert};
use crate::offload::record::BACKOFF_SECS;
use crate::offload::report::{DeviceReport, Outcome, Report};
use crate::output::journal_io;

/// For more devices than this at once, one dump is faster than single requests.
const MAX_SINGLE_LOOKS: usize = 64;
/// Long enough for a lock or a busy dump to clear, rare enough to cost nothing.
const RETRY_DELAY: Duration = Duration::from_secs(1);
/// Looks after one that failed on a device: after 1, 2, 4, ... seconds.
const MAX_RETRIES: u32 = 7;
/// The shortest time between two reads of NAT rules that change all the time.
const MIN_RULES_INTERVAL: Duration = Duration::from_secs(10);
/// An agent commits several times for one change of the rules. `watch` waits this long for the change to be complete.
const RULES_SETTLE: Duration = Duration::from_millis(500);
/// Poll interval for changes the kernel does not announce.
const POLL_INTERVAL: Duration = Duration::from_secs(60);

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// Startup fails: the policy is not valid, a question to the kernel fails, or CAP_NET_ADMIN is missing. Later errors
/// are logged, and `watch` continues.
pub fn run(options: Options, args: Watch, json: bool) -> Result<ExitCode, Error> {
    require_net_admin()?;
    let signals = Signals::new()
        .map_err(|e| Error::Io(format!("listen for signals: {}", describe_io(&e))))?;
    // Listen before the first look, so no event in between is lost.
    let mut events =
        LinkEvents::open().map_err(|e| Fault::kernel("listen for link events", e, None))?;
    let _announced = announce(&options);
    let mut policy_events = PolicyEvents::open(&options);
    let mut node = Node::open(options)?;
    let charge = args.exclusive.then(|| node.take_charge()).transpose()?;
    let mut progress = Progress {
        json,
        yields: charge.is_none(),
        ..Progress::default()
    };
    progress.look_at_all(&mut node);
    let mut rules = Rules::default();
    rules.update(&mut node);
    let mut peers = Peers::default();
    peers.update(&node);
    let mut metrics = args.metrics.map(Metrics::new);
    let mut watchdog = Watchdog::new();
    notify(&[NotifyState::Ready, NotifyState::Status(&progress.status())]);
    info!("{}", progress.status());
    loop {
        // Takes the events of its own files too, so they do not wake it.
        policy_events.on_event();
        let timeout = [
            signals.pending().then_some(Duration::ZERO),
            watchdog.time_left(),
            progress.time_left(),
            rules.time_left(),
            peers.time_left(),
            policy_events.time_left(),
            metrics.as_ref().map(Metrics::time_left),
        ]
        .into_iter()
        .flatten()
        .min();
        match wait(
            &events,
            rules.listening(&node),
            peers.events.as_ref(),
            policy_events.inotify.as_ref(),
            &signals,
            timeout,
        ) {
            Ok(ready) => {
                match signals.take(ready.signal) {
                    Signal::Reload => reload(&mut node, &mut progress, true),
                    Signal::Stop => {
                        notify(&[NotifyState::Stopping]);
                        if args.revert_on_exit {
                            give_back(&mut node, json)?;
                        }
                        return Ok(ExitCode::Ok);
                    }
                    Signal::None => {}
                }
                if policy_events.take() {
                    reload(&mut node, &mut progress, false);
                }
                if ready.event {
                    react(&mut node, &mut events, &mut progress);
                }
                if ready.rules {
                    rules.on_event(&node);
                }
                let due = peers.take(ready.peers);
                if !due.is_empty() {
                    look_at(&mut node, due, &mut progress);
                }
                let rules_due = rules.due();
                if rules_due {
                    rules.start_reading();
                    // The look reads them again only if they changed.
                    node.forget_rules();
                }
                if rules_due || progress.time_left().is_some_and(|left| left.is_zero()) {
                    progress.look_at_all(&mut node);
                    set_status(&progress.status());
                }
                rules.update(&mut node);
                peers.update(&node);
                if let Some(metrics) = &mut metrics {
                    metrics.write(&mut node);
                }
            }
            Err(e) => return Err(Fault::kernel("wait for events", e, None).into()),
        }
        watchdog.ping();
    }
}

/// Does what `revert` does, when `watch` ends.
fn give_back(node: &mut Node, json: bool) -> Result<(), Error> {
    let mut locked = node.lock()?;
    let mut facts = node.look_locked(Selection::All, &locked)?;
    node.settle(&mut facts, &mut locked, Selection::All, |node, facts| {
        decide_revert(facts, &node.verdict)
    });
    let plan = decide_revert(&facts, &node.verdict);
    let applied = node.carry_out(&plan, &mut locked, Selection::All);
    drop(locked);
    let report = Report::applied(&plan, node.kernel_report(), node.backend(), applied.changes);
    say(&report, json);
    Ok(())
}

/// Logs changes and failures. With `json` it also prints the report, on one line.
fn say(report: &Report<'_>, json: bool) {
    journal_io::changes(report);
    let news = |device: &DeviceReport<'_>| device.outcome != Outcome::Unchanged;
    if json && report.devices.iter().any(news) {
        let mut out = io::stdout().lock();
        let written = serde_json::to_writer(&mut out, report)
            .map_err(io::Error::from)
            .and_then(|()| writeln!(out));
        if let Err(e) = written {
            warn!("write the report: {}", describe_io(&e));
        }
    }
}

/// Handles all events that are in the socket now, each device once.
fn react(node: &mut Node, events: &mut LinkEvents, progress: &mut Progress) {
    let mut ifindexes = BTreeSet::new();
    let mut all = false;
    loop {
        match events.next_event() {
            Ok(Event::Link(ifindex)) => {
                ifindexes.insert(ifindex);
            }
            Ok(Event::Nothing) => break,
            // The lost events can be about any device.
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
        set_status(&progress.status());
    } else {
        look_at(node, ifindexes, progress);
    }
}

fn look_at(node: &mut Node, ifindexes: BTreeSet<u32>, progress: &mut Progress) {
    if ifindexes.len() > MAX_SINGLE_LOOKS {
        progress.look_at_all(node);
        set_status(&progress.status());
    } else if !ifindexes.is_empty() {
        let ifindexes: Vec<u32> = ifindexes.into_iter().collect();
        let before = progress.status();
        progress.look_at(node, &ifindexes);
        let now = progress.status();
        if now != before {
            set_status(&now);
        }
    }
}

/// Reads the policy again: by SIGHUP, or because its files changed. In the second case a policy that stays the same, or
/// is still not valid, is not news.
fn reload(node: &mut Node, progress: &mut Progress, asked: bool) {
    if asked {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        let usec = i128::from(now.tv_sec) * 1_000_000 + i128::from(now.tv_nsec / 1000);
        notify(&[NotifyState::Reloading, NotifyState::MonotonicUsec(usec)]);
    }
    let refused = progress.refused.take();
    match node.reload() {
        Ok(changed) if asked || changed => {
            info!("policy reloaded");
            progress.look_at_all(node);
        }
        Ok(_) => {}
        Err(e) => {
            let said = e.to_string();
            if asked || refused.as_ref() != Some(&said) {
                journal_io::policy_rejected(
                    &e,
                    "the new policy is refused and the old one stays in force",
                );
            }
            progress.refused = Some(said);
        }
    }
    let status = progress.status();
    if asked {
        notify(&[NotifyState::Ready, NotifyState::Status(&status)]);
    } else {
        set_status(&status);
    }
}

/// When to read the NAT rules again. Used as long as a decision depends on them.
#[derive(Default)]
struct Rules {
    events: Option<NftEvents>,
    /// The kernel has no nf_tables notifications.
    unsupported: bool,
    /// The last decisions depend on the rules.
    relevant: bool,
    /// The decisions also depend on something that changes without an event: iptables-legacy, ipsets, sysctls, devices
    /// below, or new destinations of outer packets. Events for destinations would be events for every neighbour of every device.
    unannounced: bool,
    due: Option<Instant>,
    last: Option<Instant>,
}

impl Rules {
    /// Called after each look. Starts to listen when the decisions depend on the rules, and then schedules one more
    /// read, because the rules may have changed before the socket was open.
    fn update(&mut self, node: &mut Node) {
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
                    warn!("{fault}; vxcsum sees such changes only at its next look");
                }
            }
        }
        let depends_on = &node.depends_on;
        if depends_on.segmentation {
            self.last.get_or_insert_with(Instant::now);
        }
        self.unannounced = depends_on.segmentation
            || self.relevant && (node.rules_change_unannounced() || depends_on.destinations);
    }

    /// The socket to wait for. `None` once a change is known, so that further changes wake nobody, unless one of them
    /// can remove vxcsum's own table.
    fn listening(&self, node: &Node) -> Option<&NftEvents> {
        self.events
            .as_ref()
            .filter(|_| self.relevant && (self.due.is_none() || node.keeps_rules()))
    }

    fn on_event(&mut self, node: &Node) {
        let now = Instant::now();
        let earliest = self.last.map_or(now, |last| last + MIN_RULES_INTERVAL);
        self.due.get_or_insert(earliest.max(now + RULES_SETTLE));
        if node.keeps_rules() {
            self.drain();
            // NAT corrupts packets until vxcsum's own table is restored.
            if node.lost_rules() {
                self.due = Some(now);
            }
        }
    }

    fn drain(&mut self) {
        if let Some(events) = self.events.as_mut() {
            events.drain();
        }
    }

    fn next(&self) -> Option<Instant> {
        let timer = self.last.filter(|_| self.unannounced);
        let timer = timer.map(|last| last + POLL_INTERVAL);
        let due = self.due.filter(|_| self.relevant);
        [due, timer].into_iter().flatten().min()
    }

    fn time_left(&self) -> Option<Duration> {
        self.next()
            .map(|at| at.saturating_duration_since(Instant::now()))
    }

    fn due(&self) -> bool {
        self.next().is_some_and(|at| at <= Instant::now())
    }

    fn start_reading(&mut self) {
        // Listen before reading: an event from now on is another change.
        self.drain();
        self.due = None;
        self.last = Some(Instant::now());
    }
}

/// Devices without peers. `watch` looks at a device again when its first peer appears.
#[derive(Default)]
struct Peers {
    events: Option<PeerEvents>,
    unsupported: bool,
    /// The devices that the socket listens for.
    waiting: BTreeSet<u32>,
    /// Devices to look at once more: a peer may have appeared before the socket was open.
    due: BTreeSet<u32>,
}

impl Peers {
    /// Called after each look. Listens as long as a device has no peers.
    fn update(&mut self, node: &Node) {
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
    fn take(&mut self, event: bool) -> BTreeSet<u32> {
        let mut out = std::mem::take(&mut self.due);
        if let Some(events) = self.events.as_ref().filter(|_| event) {
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
    /// Print reports to stdout.
    json: bool,
    /// Leaves the devices to a `watch --exclusive`.
    yields: bool,
    /// Another watch is in charge, and that was logged.
    yielded: bool,
    /// Why the newest policy is not in force.
    refused: Option<String>,
    /// How often the feature was turned off.
    changed: usize,
    /// How often the feature was turned on again.
    given_back: usize,
    /// Devices whose last change failed or was refused.
    failed: BTreeSet<u32>,
    /// Looks in a row that failed on a device.
    retries: u32,
    /// When to look at all devices again without an event.
    next_look: Option<Instant>,
}

impl Progress {
    fn look_at_all(&mut self, node: &mut Node) {
        self.failed.clear();
        self.next_look = None;
        self.look(node, Selection::All);
    }

    fn look_at(&mut self, node: &mut Node, ifindexes: &[u32]) {
        for ifindex in ifindexes {
            self.failed.remove(ifindex);
        }
        self.look(node, Selection::ByIfindex(ifindexes));
    }

    /// Logs a failure and schedules another attempt: `watch` must not end because one look failed.
    fn look(&mut self, node: &mut Node, selection: Selection<'_>) {
        let next_look = match pass(node, selection, self) {
            // No event announces the end of the backoff, or of the wait before a feature is given back.
            Ok(Some(seconds)) => Duration::from_secs(seconds),
            Ok(None) => return,
            Err(e) => {
                error!("{e}; trying again");
                RETRY_DELAY
            }
        };
        let next_look = Instant::now() + next_look;
        self.next_look = Some(
            self.next_look
                .map_or(next_look, |earlier| earlier.min(next_look)),
        );
    }

    /// Seconds until the next look after one that failed on a device. `None` after two minutes: each has been logged,
    /// and the cause is no shortage that passes.
    fn retry_in(&mut self) -> Option<u64> {
        let seconds = 1 << self.retries.min(MAX_RETRIES);
        self.retries += 1;
        (self.retries <= MAX_RETRIES).then_some(seconds)
    }

    fn time_left(&self) -> Option<Duration> {
        self.next_look
            .map(|next_look| next_look.saturating_duration_since(Instant::now()))
    }

    /// The line in `systemctl status`.
    fn status(&self) -> String {
        if self.yielded {
            return "standing by: a vxcsum watch --exclusive is in charge".to_owned();
        }
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

/// One look, with the changes that follow. Returns in how many seconds another look is due without an event.
fn pass(
    node: &mut Node,
    selection: Selection<'_>,
    progress: &mut Progress,
) -> Result<Option<u64>, Error> {
    let yields = progress.yields && node.another_is_in_charge();
    if yields != progress.yielded {
        progress.yielded = yields;
        if yields {
            info!("a vxcsum watch --exclusive is in charge of this node: standing by");
        } else {
            info!("no vxcsum watch --exclusive is in charge any more");
        }
    }
    if yields {
        return Ok(Some(POLL_INTERVAL.as_secs()));
    }
    // A look under the lock need not be repeated before a change, and a new device must not wait.
    let mut locked = node.lock()?;
    let mut facts = node.look_locked(selection, &locked)?;
    // Most events change nothing. Then the record is not touched. A deleted device leaves it at once: a long record delays
    // every new device.
    let unread = |device: &Device| device.features.as_ref().is_err_and(|fault| !fault.gone());
    let idle = !facts.devices.iter().any(unread)
        && !node.plan(&facts).changes_anything()
        && !node.has_deleted(&facts, &locked, selection);
    if idle && !matches!(selection, Selection::All) {
        return Ok(None);
    }
    node.settle(&mut facts, &mut locked, selection, Node::plan);
    let plan = node.plan(&facts);
    let applied = node.carry_out(&plan, &mut locked, selection);
    drop(locked);
    journal_io::conflicts(&plan, &applied.conflicts);
    let report = Report::applied(&plan, node.kernel_report(), node.backend(), applied.changes);
    say(&report, progress.json);
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
    let failed = |device: &DeviceReport<'_>| device.outcome == Outcome::Failed;
    let again = if report.devices.iter().any(failed) {
        progress.retry_in()
    } else {
        progress.retries = 0;
        None
    };
    let due = [backoff, plan.next_give_back(), again];
    Ok(due.into_iter().flatten().min())
}

/// What poll found.
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
    policy: Option<&OwnedFd>,
    signals: &Signals,
    timeout: Option<Duration>,
) -> Result<Ready, Errno> {
    let mut fds = vec![
        PollFd::from_borrowed_fd(events.as_fd(), PollFlags::IN),
        PollFd::from_borrowed_fd(signals.receiver.as_fd(), PollFlags::IN),
    ];
    let others = [
        rules.map(AsFd::as_fd),
        peers.map(AsFd::as_fd),
        policy.map(AsFd::as_fd),
    ];
    for fd in others.into_iter().flatten() {
        fds.push(PollFd::from_borrowed_fd(fd, PollFlags::IN));
    }
    let timeout = timeout.and_then(|left| Timespec::try_from(left).ok());
    match poll(&mut fds, timeout.as_ref()) {
        Ok(_) | Err(Errno::INTR) => {
            // An overrun appears as an error on the socket.
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
