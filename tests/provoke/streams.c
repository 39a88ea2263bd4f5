// SPDX-License-Identifier: Apache-2.0
// streams serve PORT: sends without end to all who connect.
// streams read ADDRESS PORT CONNECTIONS SECONDS: keeps so many connections, and reads what comes.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define EVENTS 256

static char data[4096];

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

static int watch(int poll, int fd, unsigned int what)
{
	struct epoll_event e = { .events = what, .data.fd = fd };

	return epoll_ctl(poll, EPOLL_CTL_ADD, fd, &e);
}

/* Whether the connection is still of use. */
static int goes_on(ssize_t n)
{
	return n > 0 || (n < 0 && errno == EAGAIN);
}

static int serve(int port)
{
	struct sockaddr_in at = { .sin_family = AF_INET, .sin_port = htons(port) };
	int l = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), poll = epoll_create1(0), on = 1;
	struct epoll_event events[EVENTS];

	setsockopt(l, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	if (l < 0 || bind(l, (struct sockaddr *)&at, sizeof(at)) || listen(l, 4096) || watch(poll, l, EPOLLIN))
		return 1;
	for (;;) {
		int n = epoll_wait(poll, events, EVENTS, -1);

		for (int i = 0; i < n; i++) {
			int fd = events[i].data.fd;

			if (fd == l) {
				int c = accept4(l, NULL, NULL, SOCK_NONBLOCK);

				if (c >= 0 && watch(poll, c, EPOLLOUT))
					close(c);
			} else if (!goes_on(send(fd, data, sizeof(data), MSG_NOSIGNAL))) {
				close(fd);
			}
		}
	}
}

static int reach(int poll, const struct sockaddr_in *to)
{
	int s = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
	/* A reset at the end, which is not sent again. */
	struct linger at_once = { .l_onoff = 1 };

	setsockopt(s, SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once));
	if (s < 0 || (connect(s, (const struct sockaddr *)to, sizeof(*to)) && errno != EINPROGRESS))
		return -1;
	return watch(poll, s, EPOLLIN);
}

static int read_all(const char *address, int port, int connections, double seconds)
{
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(port) };
	int poll = epoll_create1(0);
	struct epoll_event events[EVENTS];
	double end = now() + seconds;

	if (!inet_aton(address, &to.sin_addr))
		return 2;
	for (int i = 0; i < connections; i++)
		if (reach(poll, &to))
			return 1;
	while (now() < end) {
		int n = epoll_wait(poll, events, EVENTS, 100);

		for (int i = 0; i < n; i++) {
			if (goes_on(recv(events[i].data.fd, data, sizeof(data), 0)))
				continue;
			close(events[i].data.fd);
			if (reach(poll, &to))
				return 1;
		}
	}
	return 0;
}

int main(int argc, char **argv)
{
	if (argc == 3 && !strcmp(argv[1], "serve"))
		return serve(atoi(argv[2]));
	if (argc == 6 && !strcmp(argv[1], "read"))
		return read_all(argv[2], atoi(argv[3]), atoi(argv[4]), atof(argv[5]));
	fprintf(stderr, "streams serve PORT | read ADDRESS PORT CONNECTIONS SECONDS\n");
	return 2;
}
