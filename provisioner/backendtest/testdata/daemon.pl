# Everything a tenant's program may leave behind besides files on paths it
# knows: processes that do not want to end, and objects of the kernel.
use strict;
use Socket;
use POSIX ();
my ($mark, $held) = @ARGV;

# System V objects: numbers of linux/ipc.h, for IPC_PRIVATE | 0600.
my $shm = shmget(0, 4096, 01600) // die "shmget: $!";
shmwrite($shm, $mark, 0, length $mark) or die "shmwrite: $!";
semget(0, 1, 01600) // die "semget: $!";
my $queue = msgget(0, 01600) // die "msgget: $!";
msgsnd($queue, pack("l! a*", 1, $mark), 0) or die "msgsnd: $!";

# A POSIX message queue with a message, by number: perl has no name for it.
my %number = (x86_64 => [240, 242], aarch64 => [180, 182]);
if (my $n = $number{(POSIX::uname())[4]}) {
    my ($name, $text) = ("canary-$mark", $mark);
    my $mq = syscall($n->[0], $name, 0102, 0600, 0);
    if ($mq >= 0) { syscall($n->[1], $mq, $text, length $text, 0, 0) }
}

sub deaf { for my $s (1 .. 31) { next if $s == 9 || $s == 19; $SIG{(split " ", "ZERO HUP INT QUIT ILL TRAP ABRT BUS FPE KILL USR1 SEGV USR2 PIPE ALRM TERM STKFLT CHLD CONT STOP TSTP TTIN TTOU URG XCPU XFSZ VTALRM PROF WINCH IO PWR SYS")[$s]} = "IGNORE" } }
sub named { my ($name) = @_; if (open(my $f, ">", "/proc/self/comm")) { print $f $name } }
sub apart { # a daemon in a session of its own, twice forked
    my ($body) = @_;
    my $pid = fork() // die "fork: $!";
    if ($pid) { waitpid($pid, 0); return }
    POSIX::setsid();
    exit 0 if fork() // die "fork: $!";
    open(STDIN, "<", "/dev/null"); open(STDOUT, ">", "/dev/null"); open(STDERR, ">", "/dev/null");
    deaf();
    $body->();
    exit 0;
}

pipe(my $reader, my $writer) or die $!;
apart(sub {
    close $reader;
    named("canary");
    socket(my $abstract, PF_UNIX, SOCK_STREAM, 0) or die $!;
    bind($abstract, sockaddr_un("\0canary-$mark")) or die $!;
    listen($abstract, 1);
    socket(my $tcp, PF_INET, SOCK_STREAM, 0) or die $!;
    bind($tcp, sockaddr_in(6543, inet_aton("127.0.0.1"))) or die $!;
    listen($tcp, 1);
    socket(my $udp, PF_INET, SOCK_DGRAM, 0) or die $!;
    bind($udp, sockaddr_in(6544, inet_aton("127.0.0.1"))) or die $!;
    open(my $file, ">", "$held/gone-$mark") or die $!;
    syswrite($file, $mark x 1000);
    unlink "$held/gone-$mark";
    syswrite($writer, "ready"); close $writer;
    sleep 1 while 1;
});
apart(sub { # stopped: no signal but KILL reaches it
    close $reader; close $writer;
    named("stopped");
    kill "STOP", $$;
    sleep 1 while 1;
});
apart(sub { # many
    close $reader; close $writer;
    named("storm");
    for (1 .. 120) { last unless defined(my $pid = fork()); unless ($pid) { sleep 1 while 1 } }
    sleep 1 while 1;
});
for (1 .. 3) {
    apart(sub { # never the same process twice
        close $reader; close $writer;
        named("runner");
        $SIG{CHLD} = "IGNORE";
        while (1) { my $pid = fork(); exit 0 if $pid; select(undef, undef, undef, 0.005) }
    });
}
close $writer;
sysread($reader, my $said, 5) or die "the daemon did not start";
