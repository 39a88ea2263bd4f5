// SPDX-License-Identifier: Apache-2.0
/* Publishes a process context (OTEP 4719) whose resource has service.name = "published", and sleeps. */
#define _GNU_SOURCE
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

struct header {
	char signature[8];
	uint32_t version;
	uint32_t payload_size;
	uint64_t published_ns;
	const void *payload;
};

/* ProcessContext { resource { attributes { key, value { string_value } } } } */
static const char payload[] =
	"\x0a\x1d" "\x0a\x1b" "\x0a\x0c" "service.name" "\x12\x0b" "\x0a\x09" "published";

int main(void)
{
	int fd = memfd_create("OTEL_CTX", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	struct timespec t;

	/* What it was before it published anything is looked at, too. */
	sleep(12);
	if (fd < 0 || ftruncate(fd, 4096))
		return 1;
	struct header *h = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
	if (h == MAP_FAILED)
		return 1;
	close(fd);
	madvise(h, 4096, MADV_DONTFORK);
	clock_gettime(CLOCK_BOOTTIME, &t);
	memcpy(h->signature, "OTEL_CTX", 8);
	h->version = 2;
	h->payload_size = sizeof(payload) - 1;
	h->payload = payload;
	__sync_synchronize();
	h->published_ns = t.tv_sec * 1000000000ull + t.tv_nsec;
	prctl(0x53564d41 /* PR_SET_VMA */, 0, h, 4096, "OTEL_CTX");
	for (;;)
		pause();
}
