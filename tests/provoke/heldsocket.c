// SPDX-License-Identifier: Apache-2.0
// heldsocket PORT MS: answers what it receives from one connection after another, and owns the socket for so long
// each time: the page that it sends from is there only then (userfaultfd), and the kernel waits for it with the
// socket locked. What arrives meanwhile waits for TCP. Needs CAP_SYS_PTRACE.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE 4096

/* Sends from a page that comes late. */
static int send_late(int c, int ms)
{
	struct uffdio_api api = { .api = UFFD_API };
	int faults = syscall(SYS_userfaultfd, O_CLOEXEC);
	char *page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct uffdio_register range = { .range = { (unsigned long)page, PAGE }, .mode = UFFDIO_REGISTER_MODE_MISSING };
	struct uffdio_zeropage zero = { .range = range.range };

	if (faults < 0 || page == MAP_FAILED || ioctl(faults, UFFDIO_API, &api) || ioctl(faults, UFFDIO_REGISTER, &range))
		return 1;
	if (!fork()) {
		usleep(ms * 1000);
		_exit(ioctl(faults, UFFDIO_ZEROPAGE, &zero) != 0);
	}
	send(c, page, 100, MSG_NOSIGNAL);
	wait(NULL);
	munmap(page, PAGE);
	close(faults);
	return 0;
}

int main(int argc, char **argv)
{
	struct sockaddr_in at = { .sin_family = AF_INET };
	int l = socket(AF_INET, SOCK_STREAM, 0), on = 1;
	char data[2048];

	if (argc < 3)
		return 2;
	at.sin_port = htons(atoi(argv[1]));
	setsockopt(l, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	if (bind(l, (struct sockaddr *)&at, sizeof(at)) || listen(l, 5))
		return 1;
	for (;;) {
		int c = accept(l, NULL, NULL);

		while (recv(c, data, sizeof(data), 0) > 0)
			if (send_late(c, atoi(argv[2])))
				return 1;
		close(c);
	}
}
