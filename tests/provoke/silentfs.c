// SPDX-License-Identifier: Apache-2.0
/*
 * silentfs DIR CGROUP: mounts a FUSE file system on DIR whose one file, a program's by its head, answers for its
 * first page only. Code in that page takes memory in the memory cgroup CGROUP (a folder with a limit of 16 MiB)
 * until another process there is killed for it, again until somebody waits for the file. Who reads the file's
 * symbols waits, too, until the process with the file system ends. To be run in a mount namespace of its own.
 */
#define _GNU_SOURCE
#include <elf.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include "silent.h"

#define CODE 2048
#define SIZE (1 << 20)
#define VICTIM (10 << 20)
#define TAKEN (12 << 20)
#define ROUNDS 10

/* Somebody waits for the file. */
static volatile int held;
/* How many processes of the cgroup have all the memory that they wanted. */
static volatile int *taken;
static char head[PAGE];

/* Copied into the file: calls nothing, and touches more memory than there may be. */
__attribute__((noinline)) static void greedy(volatile char *at, volatile char *end)
{
	for (; at < end; at += PAGE)
		*at = 1;
}

static void on_read(const struct fuse_in_header *h, const struct fuse_read_in *read)
{
	if (read->offset == 0 && read->size == PAGE) {
		reply(h->unique, 0, head, PAGE);
	} else {
		printf("held %u\n", h->pid);
		fflush(stdout);
		held = 1;
	}
}

static void write_head(void)
{
	Elf64_Ehdr e = { .e_ident = { 0x7f, 'E', 'L', 'F', ELFCLASS64, ELFDATA2LSB, EV_CURRENT }, .e_type = ET_DYN,
			 .e_machine = EM_X86_64, .e_version = EV_CURRENT, .e_phoff = sizeof(e), .e_shoff = SIZE / 2,
			 .e_ehsize = sizeof(e), .e_phentsize = sizeof(Elf64_Phdr), .e_phnum = 1,
			 .e_shentsize = sizeof(Elf64_Shdr), .e_shnum = 4, .e_shstrndx = 3 };
	Elf64_Phdr p = { .p_type = PT_LOAD, .p_flags = PF_R | PF_X, .p_filesz = PAGE, .p_memsz = PAGE, .p_align = PAGE };

	memcpy(head, &e, sizeof(e));
	memcpy(head + sizeof(e), &p, sizeof(p));
	memcpy(head + CODE, greedy, 256);
}

static void write_text(const char *folder, const char *name, int number)
{
	char path[4096];
	FILE *file;

	snprintf(path, sizeof(path), "%s/%s", folder, name);
	file = fopen(path, "w");
	if (!file || fprintf(file, "%d", number) < 0 || fclose(file)) {
		perror(path);
		exit(1);
	}
}

/* Starts a process in the cgroup that takes memory by this code, says so, and then waits; the first to be killed,
 * or not. */
static pid_t take(const char *group, int first, size_t size, void (*code)(volatile char *, volatile char *))
{
	char *memory;
	pid_t pid = fork();

	if (pid != 0)
		return pid;
	write_text(group, "cgroup.procs", getpid());
	if (first)
		write_text("/proc/self", "oom_score_adj", 1000);
	/* Not swapped out. */
	mlockall(MCL_FUTURE | MCL_ONFAULT);
	memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	code(memory, memory + size);
	*taken += 1;
	for (;;)
		pause();
}

/* Waits at most so many tenths of a second. */
static int becomes(volatile int *value, int wanted, int tenths)
{
	for (; *value < wanted && tenths > 0; tenths--)
		usleep(100000);
	return *value >= wanted;
}

static void end(pid_t pid)
{
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
}

int main(int argc, char **argv)
{
	int file;
	char *code;

	if (argc < 3)
		return 2;
	write_head();
	file = mount_silent(argv[1], "program", SIZE);
	if (file < 0)
		return 1;
	posix_fadvise(file, 0, 0, POSIX_FADV_RANDOM);
	code = mmap(NULL, PAGE, PROT_READ | PROT_EXEC, MAP_PRIVATE, file, 0);
	if (code == MAP_FAILED)
		return perror("program"), 1;
	madvise(code, PAGE, MADV_RANDOM);
	taken = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	/* A kill whose stack nobody had the time to ask for holds nobody: again. */
	for (int i = 0; i < ROUNDS; i++) {
		pid_t victim, other;

		*taken = 0;
		victim = take(argv[2], 1, VICTIM, greedy);
		/* The victim has all that it takes, so that it is the other one that is refused memory. */
		if (becomes(taken, 1, 100)) {
			other = take(argv[2], 0, TAKEN, (void (*)(volatile char *, volatile char *))(code + CODE));
			while (becomes(&held, 1, 20))
				pause();
			end(other);
		}
		end(victim);
	}
	return 1;
}
