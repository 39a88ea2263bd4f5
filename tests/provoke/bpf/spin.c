// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Loads spin.bpf.o:  spin OBJECT irq|syscall MS TIMES CPU  */
#define _GNU_SOURCE
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

struct ro { unsigned long long ms, times; unsigned int cpu, pid; };

int main(int argc, char **argv)
{
	struct bpf_object *o;
	struct bpf_program *p, *use = NULL;
	struct bpf_map *m;
	struct bpf_link *l;
	struct ro *ro;
	size_t sz;
	cpu_set_t set;
	unsigned long long *done;
	unsigned int zero = 0;
	char bss[64] = { 0 };
	time_t end;

	if (argc != 6)
		return 2;
	int irq = !strcmp(argv[2], "irq");

	CPU_ZERO(&set);
	CPU_SET(atoi(argv[5]), &set);
	if (sched_setaffinity(0, sizeof(set), &set))
		return perror("affinity"), 1;
	o = bpf_object__open_file(argv[1], NULL);
	if (!o)
		return perror("open"), 1;
	bpf_object__for_each_program(p, o) {
		int want = !strcmp(bpf_program__name(p), irq ? "spin_irq" : "spin_syscall");

		bpf_program__set_autoload(p, want);
		if (want)
			use = p;
	}
	m = bpf_object__find_map_by_name(o, ".rodata");
	ro = m ? (struct ro *)bpf_map__initial_value(m, &sz) : NULL;
	if (!ro || !use)
		return fprintf(stderr, "no rodata\n"), 1;
	ro->ms = strtoull(argv[3], NULL, 10);
	ro->times = strtoull(argv[4], NULL, 10);
	ro->cpu = atoi(argv[5]);
	ro->pid = getpid();
	if (bpf_object__load(o))
		return 77;
	l = bpf_program__attach(use);
	if (!l)
		return 77;
	/* keep the CPU awake until all rounds are done: ticks and system calls happen here */
	m = bpf_object__find_map_by_name(o, ".bss");
	done = (unsigned long long *)bss;
	end = time(NULL) + 3 + ro->ms * ro->times / 400;
	while (time(NULL) < end) {
		for (volatile int i = 0; i < 2000000; i++)
			;
		bpf_map_lookup_elem(bpf_map__fd(m), &zero, bss);
		if (*done >= strtoull(argv[4], NULL, 10))
			break;
	}
	usleep(1000);
	bpf_link__destroy(l);
	bpf_map_lookup_elem(bpf_map__fd(m), &zero, bss);
	printf("spun %llu times\n", *done);
	return *done ? 0 : 1;
}
