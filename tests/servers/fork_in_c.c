/* A forking server that reaps one child per SIGCHLD, and ends when accept() fails with EINTR. */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

static void handle_exit(int signum)
{
    (void)signum;
    wait(NULL);
}

int main(void)
{
    const char reply[] = "HTTP/1.1 200 OK\r\n\r\nHello, World!\n";
    char request[1024];
    struct sigaction action = {.sa_handler = handle_exit};  /* without SA_RESTART */
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
    sigaction(SIGCHLD, &action, NULL);
    for (;;) {
        int client_fd = accept(listen_fd, NULL, NULL);
        if (client_fd == -1) {
            perror("accept");
            return 1;
        }
        if (fork() == 0) {
            close(listen_fd);
            if (read(client_fd, request, sizeof request) >= 0)
                write(client_fd, reply, strlen(reply));
            _exit(0);
        }
        close(client_fd);
    }
}
