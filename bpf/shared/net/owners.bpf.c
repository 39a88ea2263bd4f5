// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Iterators: which process holds a socket, and which cgroups' processes are in which namespace. */

/* include/uapi/linux/magic.h */
#define SOCKFS_MAGIC 0x534F434B

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct bpf_iter__task_file {
	struct bpf_iter_meta *meta;
	struct task_struct *task;
	u32 fd;
	struct file *file;
};

#pragma clang attribute pop

/* What is looked for: the socket with this inode, else whoever has this UDP port in this namespace. */
SETTING(u64, sought_socket, 0);
SETTING(u32, sought_port, 0);
SETTING(u32, sought_netns, 0);

struct socket_holder {
	/* in the memory controller's hierarchy */
	struct cgroup_ref cgroup;
	struct thread_ref thread;
};
ITERATES(socket_holder);

struct netns_member {
	struct cgroup_ref cgroup;
	u32 netns;
	u32 tgid;
};
ITERATES(netns_member);

static __always_inline bool is_sought(struct file *file)
{
	struct sock *sk;

	if (sought_socket)
		return file->f_inode->i_ino == sought_socket;
	sk = BPF_CORE_READ((struct socket *)file->private_data, sk);
	return BPF_CORE_READ(sk, __sk_common.skc_num) == sought_port && BPF_CORE_READ(sk, sk_protocol) == IPPROTO_UDP &&
	       BPF_CORE_READ(sk, __sk_common.skc_net.net, ns.inum) == sought_netns;
}

SEC("iter/task_file")
int PROBE_CTX(holders__iter, struct bpf_iter__task_file *ctx)
{
	struct socket_holder holder = {};
	struct task_struct *task = ctx->task;
	struct file *file = ctx->file;

	if (!task || !file || file->f_inode->i_sb->s_magic != SOCKFS_MAGIC)
		return 0;
	if (!is_sought(file))
		return 0;
	cgroup_of_any(&holder.cgroup, task, memory_cgrp_id);
	thread_of(&holder.thread, task);
	WRITE(socket_holder, ctx->meta->seq, &holder);
	return 0;
}

SEC("iter/task")
int PROBE_CTX(members__iter, struct bpf_iter__task *ctx)
{
	struct netns_member member = {};
	struct task_struct *task = ctx->task;

	if (!task || task->pid != task->tgid)
		return 0;
	/* A task that ends has none any more. */
	member.netns = BPF_CORE_READ(task, nsproxy, net_ns, ns.inum);
	if (!member.netns)
		return 0;
	member.tgid = task->tgid;
	cgroup_of_any(&member.cgroup, task, memory_cgrp_id);
	WRITE(netns_member, ctx->meta->seq, &member);
	return 0;
}
