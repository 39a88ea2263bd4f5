// SPDX-License-Identifier: Apache-2.0
/*
 * silentmem DIR: mounts a FUSE file system on DIR whose one file never answers, maps it, and publishes a process context
 * (OTEP 4719) whose payload is there. Who reads that waits until this process ends; it says so on standard output. To be
 * run in a mount namespace of its own.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#define PAGE 4096

static int device;

static void reply(uint64_t unique, int error, const void *data, size_t size)
{
	char message[PAGE];
	struct fuse_out_header header = { sizeof(header) + size, error, unique };

	memcpy(message, &header, sizeof(header));
	memcpy(message + sizeof(header), data, size);
	if (write(device, message, header.len) < 0)
		perror("reply");
}

static struct fuse_attr attributes(uint64_t inode)
{
	struct fuse_attr a = { .ino = inode, .nlink = 1, .blksize = PAGE };

	a.mode = inode == 1 ? S_IFDIR | 0755 : S_IFREG | 0644;
	a.size = inode == 1 ? 0 : PAGE;
	return a;
}

static void answer(struct fuse_in_header *h)
{
	struct fuse_init_out init = { .major = 7, .minor = 31, .max_readahead = PAGE, .max_write = PAGE };
	struct fuse_attr_out attr = { .attr_valid = 1000, .attr = attributes(h->nodeid) };
	struct fuse_entry_out entry = { .nodeid = 2, .entry_valid = 1000, .attr_valid = 1000, .attr = attributes(2) };
	struct fuse_open_out open = { .fh = 1 };

	switch (h->opcode) {
	case FUSE_INIT: reply(h->unique, 0, &init, sizeof(init)); break;
	case FUSE_GETATTR: reply(h->unique, 0, &attr, sizeof(attr)); break;
	case FUSE_LOOKUP: reply(h->unique, 0, &entry, sizeof(entry)); break;
	case FUSE_OPEN: reply(h->unique, 0, &open, sizeof(open)); break;
	case FUSE_READ:
		/* Nothing that takes memory: who waits holds the lock of our mappings. */
		if (write(STDOUT_FILENO, "held\n", 5) < 0)
			perror("held");
		break;
	case FUSE_FORGET:
	case FUSE_BATCH_FORGET:
	case FUSE_INTERRUPT: break;
	default: reply(h->unique, -ENOSYS, NULL, 0);
	}
}

static void *serve(void *unused)
{
	static char message[1 << 17];

	for (;;) {
		ssize_t n = read(device, message, sizeof(message));

		if (n >= 0)
			answer((void *)message);
		else if (errno != EINTR)
			return unused;
	}
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
	char text[4096];
	pthread_t thread;
	int file;
	char *memory;

	if (argc < 2)
		return 2;
	device = open("/dev/fuse", O_RDWR | O_CLOEXEC);
	snprintf(text, sizeof(text), "fd=%d,rootmode=40000,user_id=0,group_id=0", device);
	if (device < 0 || mount("silent", argv[1], "fuse", MS_NOSUID | MS_NODEV, text))
		return perror("fuse"), 1;
	pthread_create(&thread, NULL, serve, NULL);
	snprintf(text, sizeof(text), "%s/memory", argv[1]);
	file = open(text, O_RDONLY);
	memory = mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE, file, 0);
	if (file < 0 || memory == MAP_FAILED)
		return perror(text), 1;
	/* Else this process would wait for itself when it ends. */
	close(file);
	if (publish(memory))
		return perror("publish"), 1;
	for (;;)
		pause();
}
