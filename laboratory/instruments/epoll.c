/* What the machine can do: a server that answers every request with the same greeting.

   It listens on 127.0.0.1, on PORT. There are WORKERS processes, each with an event loop and a
   listening socket of its own. It looks at neither path nor body, and refuses nothing. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <err.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define BODY "Hello, World!\n"

struct client {
    int fd;
    size_t length;    /* of what has come of its request */
    char data[8192];  /* a request with a larger head is not answered */
};

static int listen_on(int port)
{
    struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int on = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    /* the kernel deals the connections out; on one shared socket the first worker takes nearly all */
    setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &on, sizeof on);
    if (bind(fd, (struct sockaddr *)&address, sizeof address) || listen(fd, 1024))
        err(1, "bind");
    return fd;
}

/* Send the response; return 0 if the connection is to be closed then. */
static int respond(struct client *client)
{
    static time_t second;
    static char date[32];
    char response[256];
    time_t now = time(NULL);
    if (now != second)
        strftime(date, sizeof date, "%a, %d %b %Y %H:%M:%S GMT", gmtime(&now));
    second = now;
    int keep = strstr(client->data, " HTTP/1.1\r\n")
        && !strcasestr(client->data, "\r\nConnection: close\r\n");
    int length = snprintf(response, sizeof response,
        "HTTP/1.1 200 OK\r\nDate: %s\r\nServer: epoll\r\nContent-Type: text/plain\r\n"
        "Content-Length: %zu\r\n%s\r\n" BODY, date, strlen(BODY), keep ? "" : "Connection: close\r\n");
    /* so short a response fits into the socket's buffer, unless the client reads none of them */
    return send(client->fd, response, length, MSG_NOSIGNAL) == length && keep;
}

/* Take what has come, and answer each request that is whole; return 0 if that was the last one. */
static int serve(struct client *client)
{
    size_t room = sizeof client->data - 1 - client->length;
    ssize_t came = recv(client->fd, client->data + client->length, room, 0);
    if (came <= 0)
        return 0;
    client->length += came;
    client->data[client->length] = 0;
    char *end;
    while ((end = strstr(client->data, "\r\n\r\n"))) {
        end[2] = 0;  /* so that respond() sees this request alone */
        if (!respond(client))
            return 0;
        client->length -= end + 4 - client->data;
        memmove(client->data, end + 4, client->length + 1);
    }
    return client->length < sizeof client->data - 1;
}

static void work(int port)
{
    int listener = listen_on(port), loop = epoll_create1(0);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL}, ready[64];
    epoll_ctl(loop, EPOLL_CTL_ADD, listener, &event);
    for (;;)
        for (int i = 0, count = epoll_wait(loop, ready, 64, -1); i < count; i++) {
            struct client *client = ready[i].data.ptr;
            if (client && !serve(client)) {
                close(client->fd);  /* which takes it out of the loop, too */
                free(client);
            } else if (!client) {
                int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK);
                if (fd < 0)
                    continue;  /* the client has left already */
                event.data.ptr = client = malloc(sizeof *client);
                client->fd = fd;
                client->length = 0;
                epoll_ctl(loop, EPOLL_CTL_ADD, fd, &event);
            }
        }
}

int main(void)
{
    const char *workers = getenv("WORKERS"), *port = getenv("PORT");
    if (!workers || !port)
        errx(1, "set WORKERS and PORT to numbers");
    for (int i = 0; i < atoi(workers); i++)
        if (fork() == 0)
            work(atoi(port));
    while (wait(NULL) > 0)
        ;
}
