//! Random rules with every target, statement and verdict that the decoders know.

use std::fmt::Write as _;

/// The ipsets that the iptables rules use.
pub const IPSETS: &str = "\
    create kept hash:ip family inet\n\
    add kept 192.168.77.2\n\
    create seen hash:ip family inet timeout 0\n\
    create nets hash:ip family inet netmask 24\n\
    add nets 192.168.77.0\n\
    create info hash:ip family inet skbinfo\n\
    add info 192.168.77.2 skbmark 0x4000/0x4000\n\
    add info 10.244.1.2 skbmark 0x4000/0x4000\n\
    create ports bitmap:port range 8000-9000\n\
    add ports 8472\n\
    create pairs hash:ip,port family inet\n\
    add pairs 192.168.77.2,udp:8472\n\
    create ranges hash:net family inet\n\
    add ranges 192.168.77.0/24\n\
    add ranges 192.168.77.9 nomatch\n\
    create listed list:set\n\
    add listed kept\n";

/// A target of iptables: its name in the kernel, its syntax, the tables and chains that accept it (empty: any), and the
/// match that it needs.
struct Target {
    name: &'static str,
    text: &'static str,
    tables: &'static str,
    chains: &'static str,
    needs: &'static str,
}

const fn target(
    name: &'static str,
    text: &'static str,
    tables: &'static str,
    chains: &'static str,
    needs: &'static str,
) -> Target {
    Target {
        name,
        text,
        tables,
        chains,
        needs,
    }
}

const FORWARD_OUT: &str = "FORWARD OUTPUT POSTROUTING";
const TCP: &str = "-p tcp -m tcp --tcp-flags SYN,RST SYN";
const UDP: &str = "-p udp -m udp --dport 8472";

const TARGETS: &[Target] = &[
    target("MARK", "MARK --or-mark 0x4000", "", "", ""),
    target("MARK", "MARK --xor-mark 0x4000", "", "", ""),
    target("MARK", "MARK --and-mark 0xffffbfff", "", "", ""),
    target("MARK", "MARK --or-mark 0x1", "", "", ""),
    target("MARK", "MARK --xor-mark 0x4001", "", "", ""),
    target("MARK", "MARK --set-mark 0x0", "", "", ""),
    target("MARK", "MARK --set-mark 0x4000", "", "", ""),
    target("CONNMARK", "CONNMARK --save-mark", "", "", ""),
    target("CONNMARK", "CONNMARK --restore-mark", "", "", ""),
    target("CONNMARK", "CONNMARK --set-xmark 0x4000/0xffff", "", "", ""),
    target(
        "CONNMARK",
        "CONNMARK --save-mark --nfmask 0x4000 --ctmask 0x4000",
        "",
        "",
        "",
    ),
    target(
        "CONNMARK",
        "CONNMARK --restore-mark --nfmask 0x4000 --ctmask 0x4000",
        "",
        "",
        "",
    ),
    target(
        "CONNMARK",
        "CONNMARK --restore-mark --nfmask 0x1 --ctmask 0xff",
        "",
        "",
        "",
    ),
    target("LOG", "LOG --log-prefix x", "", "", ""),
    target("NFLOG", "NFLOG --nflog-group 5", "", "", ""),
    target(
        "NFQUEUE",
        "NFQUEUE --queue-num 7 --queue-bypass",
        "",
        "",
        "",
    ),
    target("AUDIT", "AUDIT --type accept", "", "", ""),
    target("TRACE", "TRACE", "raw", "", ""),
    target("CT", "CT --notrack", "raw", "", ""),
    target("CT", "CT --zone 5", "raw", "", ""),
    target("CT", "CT --ctevents new,mark", "raw", "", ""),
    target(
        "CLASSIFY",
        "CLASSIFY --set-class 1:2",
        "mangle",
        FORWARD_OUT,
        "",
    ),
    target("DSCP", "DSCP --set-dscp 0x0a", "mangle", "", ""),
    target("TOS", "TOS --set-tos 0x10/0x3f", "mangle", "", ""),
    target("TTL", "TTL --ttl-inc 1", "mangle", "", ""),
    target("ECN", "ECN --ecn-tcp-remove", "mangle", "", TCP),
    target(
        "TCPMSS",
        "TCPMSS --set-mss 1000",
        "mangle",
        FORWARD_OUT,
        TCP,
    ),
    target(
        "TCPOPTSTRIP",
        "TCPOPTSTRIP --strip-options 8",
        "mangle",
        "",
        TCP,
    ),
    target("CHECKSUM", "CHECKSUM --checksum-fill", "mangle", "", ""),
    target(
        "HMARK",
        "HMARK --hmark-tuple src,dst --hmark-mod 2 --hmark-offset 0x4000 --hmark-rnd 1",
        "mangle",
        "",
        "",
    ),
    target(
        "RATEEST",
        "RATEEST --rateest-name e --rateest-interval 250ms --rateest-ewmalog 500ms",
        "",
        "",
        "",
    ),
    target(
        "IDLETIMER",
        "IDLETIMER --timeout 600 --label vxcsum",
        "",
        "",
        "",
    ),
    target("TEE", "TEE --gateway 10.244.1.2", "", "", ""),
    target(
        "SYNPROXY",
        "SYNPROXY --sack-perm --mss 1460",
        "filter",
        "INPUT FORWARD",
        TCP,
    ),
    target("REJECT", "REJECT", "filter", "INPUT FORWARD OUTPUT", TCP),
    target(
        "TPROXY",
        "TPROXY --on-port 9 --tproxy-mark 0x4000/0x4000",
        "mangle",
        "PREROUTING",
        TCP,
    ),
    target("SET", "SET --add-set seen dst", "", "", ""),
    target("SET", "SET --del-set kept dst", "", "", ""),
    target("SET", "SET --map-set info dst --map-mark", "mangle", "", ""),
    target(
        "SET",
        "SET --map-set info dst --map-prio",
        "mangle",
        FORWARD_OUT,
        "",
    ),
];

/// Targets for POSTROUTING of the table nat.
const SOURCE_NAT: &[Target] = &[
    target("MASQUERADE", "MASQUERADE", "", "", ""),
    target("MASQUERADE", "MASQUERADE --random", "", "", ""),
    target("MASQUERADE", "MASQUERADE --random-fully", "", "", ""),
    target("MASQUERADE", "MASQUERADE --random-fully", "", "", ""),
    target("MASQUERADE", "MASQUERADE --to-ports 4000-5000", "", "", UDP),
    target("SNAT", "SNAT --to-source 192.168.77.1", "", "", ""),
    target(
        "SNAT",
        "SNAT --to-source 192.168.77.1 --persistent",
        "",
        "",
        "",
    ),
    target(
        "SNAT",
        "SNAT --to-source 192.168.77.1 --random-fully",
        "",
        "",
        "",
    ),
    target("SNAT", "SNAT --to-source 192.168.77.9", "", "", ""),
    target(
        "SNAT",
        "SNAT --to-source 192.168.77.1:4000-5000",
        "",
        "",
        UDP,
    ),
    target(
        "NETMAP",
        "NETMAP --to 192.168.77.0/24",
        "",
        "",
        "-s 192.168.77.0/24",
    ),
];

/// Targets for OUTPUT and PREROUTING of the table nat.
const DESTINATION_NAT: &[Target] = &[
    target("DNAT", "DNAT --to-destination 192.168.77.2", "", "", UDP),
    target(
        "REDIRECT",
        "REDIRECT --to-ports 9",
        "",
        "",
        "-p udp -m udp --dport 53",
    ),
];

/// Targets of the kernel that are in none of these lists, with the reason.
pub const LEFT_OUT: &[(&str, &str)] = &[
    ("ERROR", "the head of a chain"),
    ("SECMARK", "needs a security module"),
    ("CONNSECMARK", "needs a security module"),
    ("NOTRACK", "iptables writes CT --notrack for it"),
];

/// The targets in the random rules.
pub fn targets() -> Vec<&'static str> {
    [TARGETS, SOURCE_NAT, DESTINATION_NAT]
        .into_iter()
        .flatten()
        .map(|t| t.name)
        .collect()
}

/// What statements of nft do, by a part of their text.
const STATEMENTS: &[&str] = &[
    "masquerade",
    "snat to",
    "snat ip",
    "dnat to",
    "dnat ip prefix",
    "redirect",
    "dup to",
    "fwd to",
    "notrack",
    "synproxy",
    "tproxy",
    "reject",
    "drop",
    "log ",
    "counter",
    "limit",
    "quota",
    "numgen",
    "jhash",
    "symhash",
    "vmap",
    "map {",
    "ct mark set",
    "meta mark set",
    "ct zone set",
    "ct event set",
    "ct helper set",
    "ct count",
    "add @",
    "update @",
    "delete @",
    "sport set",
    "dscp set",
    "ttl set",
    "tcp option",
    "priority set",
    "nftrace",
    "jump called",
    "goto called",
    "socket",
    "hook egress",
    "hook ingress",
];

/// The targets and statements in a random rule set.
pub fn targets_in(text: &str) -> impl Iterator<Item = &str> {
    let behind = |line: &'_ str| line.find(" -j ").map_or(line.len(), |at| at + 4);
    let mut found: std::collections::BTreeSet<&str> = text
        .lines()
        .filter_map(|line| line[behind(line)..].split(' ').next())
        .filter(|target| !target.is_empty())
        .collect();
    if text.starts_with("table ") {
        let (_, rules) = text.split_once("chain called").unwrap();
        found.extend(
            STATEMENTS
                .iter()
                .filter(|statement| rules.contains(**statement)),
        );
    }
    found.into_iter()
}

/// Marks for connections of pods to a service, as kube-proxy sets them, for the inner packets of a device over IPv6.
pub const SERVICES: &str = "\
    *nat\n\
    -A OUTPUT -d 10.96.0.10/32 -p tcp -j MARK --or-mark 0x4000\n\
    -A OUTPUT -d 10.96.0.10/32 -p tcp -m tcp --dport 80 -j DNAT --to-destination 10.244.1.2:80\n\
    -A PREROUTING -d 10.96.0.10/32 -p tcp -j MARK --or-mark 0x4000\n\
    -A PREROUTING -d 10.96.0.10/32 -p tcp -m tcp --dport 80 -j DNAT --to-destination 10.244.1.2:80\n\
    COMMIT\n";

/// The same rules or ipsets for IPv6.
pub fn over_ipv6(text: &str) -> String {
    const SAME: &[(&str, &str)] = &[
        ("192.168.77.1:4000", "[fd00:77::1]:4000"),
        ("10.244.1.2:80", "[fd00:244::2]:80"),
        ("192.168.77.0/24", "fd00:77::/64"),
        ("192.168.77.0", "fd00:77::"),
        ("192.168.77.", "fd00:77::"),
        ("10.244.0.0/16", "fd00:244::/32"),
        ("10.244.0.1", "fd00:244::1"),
        ("10.244.1.2", "fd00:244::2"),
        ("10.96.0.10/32", "fd00:96::a/128"),
        ("10.96.0.10", "fd00:96::a"),
        // The headers.
        ("-m ttl --ttl-eq", "-m hl --hl-eq"),
        ("TTL --ttl-inc", "HL --hl-inc"),
        ("ECN --ecn-tcp-remove", "RETURN"),
        ("! -f ", ""),
        ("-f ", ""),
        ("family inet", "family inet6"),
        ("netmask 24", "netmask 64"),
        ("table ip t", "table ip6 t"),
        ("ipv4_addr", "ipv6_addr"),
        ("ip daddr", "ip6 daddr"),
        ("ip saddr", "ip6 saddr"),
        ("ip dscp", "ip6 dscp"),
        ("ip ttl", "ip6 hoplimit"),
        ("ip frag-off & 0x1fff == 0", "ip6 version 6"),
        (
            "@nh,128,32 0xc0a84d02",
            "@nh,192,128 0xfd000077000000000000000000000002",
        ),
        ("snat ip ", "snat ip6 "),
        ("dnat ip ", "dnat ip6 "),
        ("255.255.255.0", "ffff:ffff:ffff:ffff::"),
    ];
    let mut text = text.to_owned();
    for (from, to) in SAME {
        text = text.replace(from, to);
    }
    text
}

/// The same numbers in every run (xorshift).
pub struct Dice(pub u64);

impl Dice {
    pub fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % sides as u64).unwrap()
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.roll(from.len())]
    }

    fn conditions(&mut self) -> String {
        const SOME: &[&str] = &[
            "-m mark --mark 0x4000/0x4000",
            "-m mark ! --mark 0x4000/0x4000",
            "-m mark --mark 0x1/0x1",
            "-m mark ! --mark 0x1/0x1",
            "-m mark --mark 0x4001/0x4001",
            "-m mark --mark 0x4000",
            "-m mark --mark 0x0/0x4001",
            "-m connmark --mark 0x4000/0x4000",
            "-m connmark ! --mark 0x1",
            "-o eth0",
            "! -o eth0",
            "-o flannel.1",
            "! -o flannel.1",
            "-s 192.168.77.0/24",
            "! -s 192.168.77.0/24",
            "-d 192.168.77.2",
            "-d 10.244.0.0/16",
            "-p tcp",
            "-p udp -m udp --dport 8472",
            "-p udp -m multiport --dports 53,8000:9000",
            "-m addrtype --src-type LOCAL",
            "-m addrtype ! --dst-type LOCAL",
            "-m statistic --mode nth --every 2 --packet 0",
            "-m conntrack --ctstate NEW",
            "-m conntrack ! --ctstate ESTABLISHED",
            "-m limit --limit 1/day --limit-burst 1",
            "-m length --length 0:1500",
            "-m pkttype --pkt-type unicast",
            "-m set --match-set kept dst",
            "-m set ! --match-set kept dst",
            "-m set --match-set seen dst",
            "-m set ! --match-set seen dst",
            "-m set --match-set nets dst",
            "-m set --match-set ports dst",
            "-m set --match-set kept src",
            "-m set --match-set pairs dst,dst",
            "-m set ! --match-set pairs dst,dst",
            "-m set --match-set ranges dst --return-nomatch",
            "-m set --match-set ranges src",
            "-m set --match-set listed dst",
            "-m set --match-set kept dst --packets-gt 1",
            "-m comment --comment x",
            "-m state --state NEW",
            "-m conntrack --ctstate NEW,UNTRACKED",
            "-m conntrack ! --ctproto udp",
            "-m conntrack --ctorigdst 10.96.0.10",
            "! -p tcp",
            "-p tcp -m tcp --dport 80",
            "-p udp -m udp --sport 1024:65535",
            "-p udp -m udp ! --dport 53",
            "-p tcp -m multiport ! --ports 80,8472",
            "-p udp -m multiport --sports 1024:65535",
            "-f",
            "! -f",
            "-i cni0",
            "! -i lo",
            "-m addrtype --dst-type UNICAST",
            "-m addrtype --src-type LOCAL --limit-iface-out",
            "-m statistic --mode random --probability 0.5",
            "-m iprange --dst-range 192.168.77.1-192.168.77.9",
            "-m ttl --ttl-eq 64",
            "-m u32 --u32 0>>24=69",
            "-m connbytes --connbytes 2: --connbytes-dir both --connbytes-mode packets",
            "-m recent --name r --set",
            "-m quota --quota 1",
        ];
        let count = self.roll(3);
        (0..count)
            .map(|_| *self.pick(SOME))
            .collect::<Vec<_>>()
            .join(" ")
    }

    /// The target of a rule in this table and chain, and the match that it needs.
    fn action(&mut self, table: &str, chain: &str) -> (&'static str, &'static str) {
        let nat = table == "nat";
        let end = match chain {
            "R" | "S" | "POSTROUTING" if nat => self.pick(SOURCE_NAT),
            "OUTPUT" | "PREROUTING" if nat && self.roll(8) == 0 => self.pick(DESTINATION_NAT),
            _ => &target("", "RETURN", "", "", ""),
        };
        match self.roll(if nat { 4 } else { 10 }) {
            0 | 1 if nat => (end.text, end.needs),
            0 => (["ACCEPT", "RETURN", "ACCEPT", "DROP"][self.roll(4)], ""),
            // More marks, because most decisions depend on them.
            1..=3 => (TARGETS[self.roll(13)].text, ""),
            _ => loop {
                let t = self.pick(TARGETS);
                let here =
                    |list: &str, what: &str| list.is_empty() || list.split(' ').any(|w| w == what);
                if here(t.tables, table) && here(t.chains, chain) {
                    return (t.text, t.needs);
                }
            },
        }
    }

    fn rule(&mut self, table: &str, chain: &str, calls: &str) -> String {
        let (what, needs, jump) = match self.roll(12) {
            0 if !calls.is_empty() => (calls, "", "-g"),
            1 if !calls.is_empty() => (calls, "", "-j"),
            _ => {
                let (what, needs) = self.action(table, chain);
                (what, needs, "-j")
            }
        };
        // iptables refuses a match given twice, and wants -p before the matches that need it.
        loop {
            let when = format!("{needs} {}", self.conditions());
            let flags: Vec<&str> = when
                .split(' ')
                .filter(|w| w.starts_with('-') && w.len() == 2 && *w != "-m")
                .collect();
            let mut once = flags.clone();
            once.sort_unstable();
            once.dedup();
            let no_way_out = ["INPUT", "PREROUTING"].contains(&chain)
                && (when.contains("-o ") || when.contains("iface-out"));
            let no_way_in =
                !["INPUT", "PREROUTING", "FORWARD"].contains(&chain) && when.contains("-i ");
            if once.len() == flags.len() && !no_way_out && !no_way_in {
                return format!("-A {chain} {when} {jump} {what}\n");
            }
        }
    }

    /// Rules in the syntax of iptables-restore.
    pub fn iptables(&mut self) -> String {
        let mut out = String::new();
        for (table, chains) in [
            ("raw", &["PREROUTING", "OUTPUT"][..]),
            (
                "mangle",
                &["PREROUTING", "FORWARD", "OUTPUT", "POSTROUTING"],
            ),
            ("filter", &["FORWARD", "OUTPUT"]),
            ("security", &["FORWARD", "OUTPUT"]),
        ] {
            let _ = writeln!(out, "*{table}");
            for chain in chains {
                if self.roll(3) == 0 {
                    out += &self.rule(table, chain, "");
                }
            }
            out += "COMMIT\n";
        }
        out += "*nat\n:R - [0:0]\n:S - [0:0]\n-A OUTPUT -d 10.96.0.10/32 -p tcp -j MARK --or-mark 0x4000\n\
                -A OUTPUT -d 10.96.0.10/32 -p tcp -m tcp --dport 80 -j DNAT --to-destination 10.244.1.2:80\n\
                -A PREROUTING -d 10.96.0.10/32 -p tcp -j MARK --or-mark 0x4000\n\
                -A PREROUTING -d 10.96.0.10/32 -p tcp -m tcp --dport 80 -j DNAT --to-destination 10.244.1.2:80\n";
        for (chain, calls, most) in [
            ("OUTPUT", "", 2),
            ("POSTROUTING", "R", 3),
            ("R", "S", 3),
            ("S", "", 3),
        ] {
            for _ in 0..self.roll(most + 1) {
                out += &self.rule("nat", chain, calls);
            }
        }
        out + "COMMIT\n"
    }

    /// One rule of nft for a chain of this kind. nft refuses a rule that asks for two protocols.
    fn statements(&mut self, hook: &str, last: Option<&[&str]>) -> String {
        loop {
            let rule = self.any_statements(hook, last);
            if !(rule.contains("tcp") && rule.contains("udp")) {
                return rule;
            }
        }
    }

    #[allow(clippy::too_many_lines)] // Three tables.
    fn any_statements(&mut self, hook: &str, last: Option<&[&str]>) -> String {
        const IF: &[&str] = &[
            "meta mark & 0x4000 == 0x4000",
            "meta mark & 0x4000 == 0x0",
            "meta mark 0x4000",
            "meta mark != 0x1",
            "meta mark { 0x1, 0x4000-0x4fff }",
            "ct mark & 0x4000 == 0x4000",
            "ct mark 0x1",
            "ip daddr 192.168.77.2",
            "ip saddr 192.168.77.0/24",
            "ip daddr @kept",
            "ip daddr != @kept",
            "ip daddr @seen",
            "ip daddr != @seen",
            "ip daddr @limited",
            "ip daddr . udp dport { 192.168.77.2 . 8472 }",
            "udp dport 8472",
            "meta l4proto tcp",
            "ct state new",
            "limit rate 1/day burst 1 packets",
            "quota over 1 bytes",
            "numgen inc mod 2 0",
            "meta length 0-1500",
            "meta mark > 0x3fff",
            "meta mark != 0x1-0x10",
            "meta mark . ct mark { 0x4000 . 0x1, 0x0 . 0x0 }",
            "ct status dnat",
            "ct status & dnat == 0",
            "ct original ip daddr 10.96.0.10",
            "ct direction original",
            "ct state vmap { invalid : drop, established : accept }",
            "ct count over 1",
            "ct packets > 1",
            "ip saddr & 255.255.255.0 == 192.168.77.0",
            "ip daddr 192.168.77.1-192.168.77.9",
            "ip saddr != 192.168.77.1-192.168.77.9",
            "ip daddr @ranges",
            "ip daddr != @ranges",
            "ip daddr . udp dport @pairs",
            "ip daddr . udp dport != @pairs",
            "udp sport 1024-65535",
            "udp dport { 53, 8000-9000 }",
            "udp dport != 53",
            "th dport 8472",
            "@th,16,16 8472",
            "@nh,128,32 0xc0a84d02",
            "ip ttl 64",
            "ip frag-off & 0x1fff == 0",
            "numgen random mod 2 0",
            "symhash mod 2 0",
            "limit name \"l\"",
            "quota name \"q\"",
            "meta skuid 0",
            "rt ipsec exists",
        ];
        const OUT: [&str; 10] = [
            "oifname \"eth0\"",
            "oifname != \"eth0\"",
            "oifname \"flannel.1\"",
            "fib saddr type local",
            "fib daddr type != local",
            "rt classid 0",
            "meta oifkind \"veth\"",
            "fib saddr . oif type local",
            "meta oiftype ether",
            "oifname { \"eth0\", \"cni*\" }",
        ];
        const THEN: &[&str] = &[
            "meta mark set 0x4000",
            "meta mark set 0x0",
            "meta mark set meta mark | 0x4000",
            "meta mark set meta mark ^ 0x4000",
            "meta mark set meta mark & 0xffffbfff",
            "meta mark set ct mark",
            "meta mark set ct mark & 0x1",
            "meta mark set numgen inc mod 2 map { 0 : 0x4000, 1 : 0x1 }",
            "meta mark set ip daddr map { 192.168.77.2 : 0x4000, 10.244.1.2 : 0x1 }",
            "meta mark set jhash ip daddr mod 2 offset 16384",
            "ct mark set meta mark",
            "ct mark set 0x4000",
            "ct mark set meta mark & 0x4000",
            "meta mark vmap { 0x4000 : return, 0x1 : accept }",
            "ip daddr vmap { 192.168.77.2 : return, 10.244.1.2 : continue }",
            "counter",
            "log group 5",
            "log prefix \"x\"",
            "meta priority set 1",
            "meta nftrace set 1",
            "add @seen { ip daddr }",
            "update @seen { ip daddr }",
            "delete @kept { ip daddr }",
            "add @metered { ip daddr limit rate 1/day burst 1 packets }",
            "dup to 10.244.1.2 device \"cni0\"",
            "ip dscp set cs1",
            "ip ttl set 60",
            "tcp option maxseg size set 1000",
            "ct event set new",
            "meta mark set meta mark << 1",
            "meta mark set meta mark >> 1",
            "meta mark set symhash mod 2 offset 16384",
            "meta mark set ip daddr . ip saddr map { 192.168.77.2 . 192.168.77.1 : 0x4000 }",
            "ct mark set ct mark | 0x4000",
            "meta mark . ct mark vmap { 0x4000 . 0x1 : return, 0x0 . 0x0 : accept }",
            "counter name \"c\"",
            "ct helper set \"h\"",
            "add @counted { ip daddr ct count over 1 }",
            "ip daddr 10.96.0.10 drop",
            "accept",
            "return",
            "jump called",
            "goto called",
        ];
        let mut out = String::new();
        for _ in 0..self.roll(3) {
            let tests = match (hook, self.roll(4)) {
                ("output" | "postrouting" | "forward", 0) => &OUT[..],
                _ => IF,
            };
            let _ = write!(out, "{} ", self.pick(tests));
        }
        let special = match hook {
            "raw" => &["notrack", "ct zone set 5"][..],
            "prerouting" => &[
                "meta l4proto tcp tproxy to :9",
                "socket transparent 1 accept",
            ],
            "forward" => &[
                "tcp flags syn synproxy mss 1460 wscale 7",
                "meta l4proto tcp reject",
            ],
            "output" => &["meta l4proto tcp reject"],
            // A written port is rare, because it hides everything else.
            "postrouting" if self.roll(8) == 0 => &["udp dport 8472 udp sport set 4242"],
            _ => &[],
        };
        let what = match (last, self.roll(4)) {
            (Some(last), 0..=2) => *self.pick(last),
            // A statement that needs TCP cannot stand behind a condition for UDP.
            (None, 0) if !special.is_empty() => return format!("{}\n", self.pick(special)),
            // A chain that is called cannot call a chain itself.
            _ if hook == "called" => *self.pick(&THEN[..THEN.len() - 2]),
            _ => *self.pick(THEN),
        };
        out + what + "\n"
    }

    /// Rules in the syntax of nft.
    pub fn nft(&mut self) -> String {
        const NAT: [&str; 17] = [
            "masquerade",
            "masquerade random",
            "masquerade fully-random",
            "masquerade fully-random",
            "masquerade fully-random,persistent",
            "meta l4proto udp masquerade to :4000-5000",
            "snat to 192.168.77.1",
            "snat to 192.168.77.9",
            "snat to 192.168.77.1 fully-random",
            "snat to ip daddr map { 192.168.77.2 : 192.168.77.1, 10.244.1.2 : 10.244.0.1 }",
            "meta l4proto udp snat to 192.168.77.1:4000-5000",
            "snat ip prefix to ip saddr map { 192.168.77.0/24 : 192.168.77.0/24 }",
            "snat to 192.168.77.1-192.168.77.9",
            "snat to ip daddr map @addresses",
            "snat ip to ip daddr . udp dport map { 192.168.77.2 . 8472 : 192.168.77.9 }",
            "snat to numgen inc mod 2 map { 0 : 192.168.77.1, 1 : 192.168.77.1 }",
            "meta l4proto udp masquerade to :numgen inc mod 4 offset 4000",
        ];
        /// Destination NAT of outer packets, which hides everything else, so it is rare.
        const DESTINATION: [&str; 3] = [
            "udp dport 8472 dnat to 192.168.77.2",
            "udp dport 53 redirect to :9",
            "udp dport 8472 dnat ip prefix to ip daddr map { 192.168.77.0/24 : 192.168.77.0/24 }",
        ];
        let mut out = String::from(
            "table ip t {\n\
             set kept { type ipv4_addr; size 64; flags dynamic; elements = { 192.168.77.2 } }\n\
             set seen { type ipv4_addr; size 64; flags dynamic; }\n\
             set metered { type ipv4_addr; size 64; flags dynamic; }\n\
             set ranges { type ipv4_addr; flags interval; elements = { 192.168.77.0/24 } }\n\
             set pairs { type ipv4_addr . inet_service; flags interval; elements = { 192.168.77.0/24 . 8000-9000 } }\n\
             set counted { type ipv4_addr; size 64; flags dynamic; }\n\
             map addresses { type ipv4_addr : ipv4_addr; elements = { 192.168.77.2 : 192.168.77.1 } }\n\
             counter c { }\nquota q { over 1 bytes }\nlimit l { rate 1/day burst 1 packets }\n\
             ct helper h { type \"ftp\" protocol tcp; }\n\
             set limited { type ipv4_addr; limit rate 1/day burst 1 packets; elements = { 192.168.77.2 limit rate 1/day burst 1 packets } }\n\
             chain called {\n",
        );
        for _ in 0..self.roll(3) {
            out += &self.statements("called", None);
        }
        let destination = match self.roll(12) {
            0 => *self.pick(&DESTINATION),
            _ => "",
        };
        out += "}\nchain services { ip daddr 10.96.0.10 tcp dport 80 meta mark set meta mark | 0x4000 dnat to 10.244.1.2:80; }\n\
                chain d0 { type nat hook prerouting priority -100; jump services; }\n\
                chain d1 { type nat hook output priority -100; jump services; ";
        let _ = writeln!(out, "{destination}; }}");
        let priority = ["-10", "0", "50", "99", "100", "110"][self.roll(6)];
        for (name, kind, hook, at) in [
            ("raw", "filter", "output", "-300"),
            ("pre", "filter", "prerouting", "-150"),
            ("mangle", "route", "output", "-150"),
            ("out", "filter", "output", "0"),
            ("through", "filter", "forward", "0"),
            ("post", "filter", "postrouting", priority),
        ] {
            if self.roll(3) == 0 {
                let _ = writeln!(
                    out,
                    "chain {name} {{ type {kind} hook {hook} priority {at};"
                );
                let hook = if name == "raw" { name } else { hook };
                for _ in 0..=self.roll(2) {
                    out += &self.statements(hook, None);
                }
                out += "}\n";
            }
        }
        for n in 0..=self.roll(2) {
            let at = ["90", "100", "110"][self.roll(3)];
            let _ = writeln!(
                out,
                "chain nat{n} {{ type nat hook postrouting priority {at};"
            );
            for _ in 0..=self.roll(2) {
                out += &self.statements("postrouting", Some(&NAT));
            }
            out += "}\n";
        }
        out + "}\n" + &self.netdev()
    }

    /// Chains at devices.
    fn netdev(&mut self) -> String {
        const DEVICE: [&str; 8] = [
            "meta mark set 0x4000",
            "meta mark set meta mark ^ 0x4000",
            "meta mark set 0x0",
            "meta mark & 0x4000 == 0x4000 meta mark set 0x1",
            "counter",
            "meta priority set 1",
            "udp dport 53 dup to \"cni0\"",
            "tcp dport 81 fwd to \"cni0\"",
        ];
        let mut out = String::from("table netdev d {\n");
        for (name, device) in [("e0", "eth0"), ("e1", "flannel.1"), ("e2", "cni0")] {
            if self.roll(4) == 0 {
                let what = match self.roll(8) {
                    0 => "udp dport 8472 udp sport set 4242",
                    _ => *self.pick(&DEVICE),
                };
                let _ = writeln!(
                    out,
                    "chain {name} {{ type filter hook egress device \"{device}\" priority 0; {what}; }}"
                );
            }
        }
        if self.roll(4) == 0 {
            let what = self.pick(&DEVICE[..6]);
            let _ = writeln!(
                out,
                "chain i {{ type filter hook ingress device \"cni0\" priority 0; {what}; }}"
            );
        }
        out + "}\n"
    }
}
