# Splits the output of `strace -xx -e read=all` into inputs of the fuzzer, by the kind of the first message of each
# answer. Usage: perl split.pl DIRECTORY NAME <TRACE
use strict;
use warnings;

my ($out, $name) = @ARGV;
my (%inputs, $bytes, $info);

sub put {
	my ($decoder, $input) = @_;
	push @{ $inputs{$decoder} }, $input;
}

sub answer {
	return unless length($bytes // '') >= 16;
	my $kind = unpack 'x4 S', $bytes;
	put('netlink', $bytes) if length $bytes < 4096;
	if ($kind >> 8 == 10) { $inputs{nft}[0] .= $bytes }
	elsif ($kind >> 8 == 6) { put('ipset', $bytes) }
	elsif ($kind == 24 || $kind == 32) { put('route', $bytes) }
	# 16 is also the family that lists families. Links have an empty first byte.
	elsif ($kind == 16 && !unpack('x16 C', $bytes) || $kind == 20 || $kind == 28) { put('rtnl', $bytes) }
	elsif ($kind >= 16) { put('ethtool', $bytes) }
}

while (<STDIN>) {
	if (/^ \| [0-9a-f]+  ((?:[0-9a-f]{2} +)+)/) {
		$bytes .= pack 'H*', $1 =~ s/ //gr;
		next;
	}
	answer();
	$bytes = /recv(?:from|msg)\(/ ? '' : undef;
	next unless /SOL_(IP|IPV6), IP6?T_SO_GET_(INFO|ENTRIES), "((?:\\x[0-9a-f]{2})+)"/;
	my ($v6, $what, $digits) = ($1 eq 'IPV6', $2, $3);
	my $data = pack 'H*', $digits =~ s/\\x//gr;
	if ($what eq 'INFO') { $info = $data; next }
	my %table = (nat => 0, mangle => 1, filter => 2, raw => 3);
	my $table = unpack 'Z32', $data;
	put('xt-table', pack('CC', $v6, $table{$table} // 0) . $info . substr $data, 40);
	# Each match and each target: 2 bytes of length, a name in 29, a revision.
	my ($header, $offset) = $v6 ? (168, 140) : (112, 88);
	for (my ($at, $next) = (40, 0); $at < length $data; $at += $next) {
		(my $target, $next) = unpack "x$offset SS", substr $data, $at;
		for (my ($from, $size) = ($header, 0); $from < $next; $from += $size) {
			$size = $from < $target ? unpack 'S', substr $data, $at + $from : $next - $from;
			my ($extension, $revision) = unpack 'x2 Z29 C', substr $data, $at + $from, $size;
			next if $extension eq '';
			my $which = $v6 + ($from < $target ? 0 : 4);
			put('xt-extension', pack('CC Z*', $which, $revision, $extension) . substr $data, $at + $from + 32, $size - 32);
		}
	}
}
answer();
for my $decoder (keys %inputs) {
	mkdir "$out/$decoder";
	my $n = 0;
	for (@{ $inputs{$decoder} }) {
		open my $file, '>', "$out/$decoder/$name-" . $n++ or die "$out/$decoder: $!";
		print $file $_;
	}
}
