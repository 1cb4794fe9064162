/* A thread for each client, and nobody closes its socket. */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static void *serve(void *client)
{
    const char reply[] = "HTTP/1.1 200 OK\r\n\r\nHello, World!\n";
    char request[1024];

    if (read((int)(long)client, request, sizeof request) >= 0)
        send((int)(long)client, reply, strlen(reply), MSG_NOSIGNAL);
    return NULL;
}

int main(void)
{
    struct sockaddr_in address = {
        .sin_family = AF_INET,
        .sin_port = htons(atoi(getenv("PORT"))),
        .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
    };
    int listen_fd = socket(AF_INET, SOCK_STREAM, 0);

    if (bind(listen_fd, (struct sockaddr *)&address, sizeof address) || listen(listen_fd, 128)) {
        perror("listen");
        return 1;
    }
    for (;;) {
        long client_fd = accept(listen_fd, NULL, NULL);
        pthread_t thread;
        pthread_create(&thread, NULL, serve, (void *)client_fd);
        pthread_detach(thread);
    }
}
