# A child for each client; the reply is indented like the code around it, so it is no HTTP.
use strict;
use warnings;
use IO::Socket::INET;

my $server = IO::Socket::INET->new(
    LocalAddr => '127.0.0.1', LocalPort => $ENV{PORT}, Listen => 128, ReuseAddr => 1) or die $!;
$SIG{CHLD} = 'IGNORE';
while (1) {
    my $client = $server->accept() or next;
    if (fork() == 0) {
        close $server;
        sysread $client, my $request, 1024;
        syswrite $client, <<"END";
        HTTP/1.1 200 OK

        Hello, World!
END
        exit 0;
    }
    close $client;
}
