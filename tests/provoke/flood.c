// SPDX-License-Identifier: Apache-2.0
// flood ADDRESS PORT SECONDS: sends small UDP packets as fast as it can; says how many it sent.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <time.h>

#define BATCH 64

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

int main(int argc, char **argv)
{
	struct sockaddr_in to = { .sin_family = AF_INET };
	struct mmsghdr batch[BATCH] = { 0 };
	struct iovec data = { .iov_base = "storm", .iov_len = 5 };
	int s = socket(AF_INET, SOCK_DGRAM, 0);
	unsigned long sent = 0;
	double end;

	if (argc < 4 || !inet_aton(argv[1], &to.sin_addr))
		return 2;
	to.sin_port = htons(atoi(argv[2]));
	end = now() + atof(argv[3]);
	if (s < 0 || connect(s, (struct sockaddr *)&to, sizeof(to)))
		return 1;
	for (int i = 0; i < BATCH; i++)
		batch[i].msg_hdr = (struct msghdr){ .msg_iov = &data, .msg_iovlen = 1 };
	while (now() < end) {
		int n = sendmmsg(s, batch, BATCH, 0);

		sent += n > 0 ? n : 0;
	}
	printf("%lu\n", sent);
	return 0;
}
