// SPDX-License-Identifier: Apache-2.0
/*
 * silentmem DIR: mounts a FUSE file system on DIR whose one file never answers, maps it, and publishes a process context
 * (OTEP 4719) whose payload is there. Who reads that waits until this process ends; it says so on standard output. To be
 * run in a mount namespace of its own.
 */
#define _GNU_SOURCE
#include <sys/mman.h>

#include "silent.h"

static void on_read(const struct fuse_in_header *h, const struct fuse_read_in *read)
{
	(void)h, (void)read;
	/* Nothing that takes memory: who waits holds the lock of our mappings. */
	if (write(STDOUT_FILENO, "held\n", 5) < 0)
		perror("held");
}

static int publish(char *payload)
{
	struct {
		char signature[8];
		uint32_t version, size;
		uint64_t time;
		char *payload;
	} header = { "OTEL_CTX", 2, 100, 1, payload };
	int fd = memfd_create("OTEL_CTX", 0);
	char *to;

	if (ftruncate(fd, PAGE))
		return 1;
	to = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	memcpy(to, &header, sizeof(header));
	return 0;
}

int main(int argc, char **argv)
{
	int file;
	char *memory;

	if (argc < 2)
		return 2;
	file = mount_silent(argv[1], "memory", PAGE);
	if (file < 0)
		return 1;
	memory = mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE, file, 0);
	if (memory == MAP_FAILED)
		return perror("memory"), 1;
	/* Else this process would wait for itself when it ends. */
	close(file);
	if (publish(memory))
		return perror("publish"), 1;
	for (;;)
		pause();
}
