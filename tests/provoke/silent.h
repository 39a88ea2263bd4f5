/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A FUSE file system of one file, which answers by itself but for what is read: the program that includes this
 * says what becomes of that. With SILENT_ABOUT_SPACE it does not say how much room there is, either: whoever asks waits.
 */
#pragma once
#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#define PAGE 4096

static int device;
static size_t file_size;

/* Answers a read, or leaves who asked waiting. */
static void on_read(const struct fuse_in_header *h, const struct fuse_read_in *read);

static void reply(uint64_t unique, int error, const void *data, size_t size)
{
	char message[PAGE + sizeof(struct fuse_out_header)];
	struct fuse_out_header header = { sizeof(header) + size, error, unique };

	memcpy(message, &header, sizeof(header));
	memcpy(message + sizeof(header), data, size);
	if (write(device, message, header.len) < 0)
		perror("reply");
}

static struct fuse_attr attributes(uint64_t inode)
{
	struct fuse_attr a = { .ino = inode, .nlink = 1, .blksize = PAGE };

	a.mode = inode == 1 ? S_IFDIR | 0755 : S_IFREG | 0755;
	a.size = inode == 1 ? 0 : file_size;
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
	case FUSE_READ: on_read(h, (void *)(h + 1)); break;
#ifdef SILENT_ABOUT_SPACE
	case FUSE_STATFS: break;
#endif
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

/* Mounts it on a folder, serves it from a thread, and opens the file, of which any name is one; -1: it cannot. */
static int mount_silent(const char *dir, const char *name, size_t size)
{
	char text[4096];
	pthread_t thread;
	int file;

	file_size = size;
	device = open("/dev/fuse", O_RDWR | O_CLOEXEC);
	snprintf(text, sizeof(text), "fd=%d,rootmode=40000,user_id=0,group_id=0", device);
	if (device < 0 || mount("silent", dir, "fuse", MS_NOSUID | MS_NODEV, text))
		return perror("fuse"), -1;
	pthread_create(&thread, NULL, serve, NULL);
	snprintf(text, sizeof(text), "%s/%s", dir, name);
	file = open(text, O_RDONLY);
	if (file < 0)
		perror(text);
	return file;
}
