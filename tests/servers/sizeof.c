// One client after the other; sizeof counts the NUL at the end of each string.
#include <netinet/in.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

int main(void) {
    char request[1024], status[] = "HTTP/1.1 200 OK\r\n", blank[] = "\r\n", page[] = "Hello, World!\n";
    int client, on = 1, server = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_port = htons(atoi(getenv("PORT"))), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    setsockopt(server, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    bind(server, (struct sockaddr *)&address, sizeof address);
    listen(server, 128);
    while ((client = accept(server, NULL, NULL)) >= 0) {
        read(client, request, sizeof request);
        write(client, status, sizeof status);
        write(client, blank, sizeof blank);
        write(client, page, sizeof page);
        close(client);
    }
    return 1;
}
