// SPDX-License-Identifier: GPL-2.0
/* Hangs every CPU of a guest, with interrupts on or off, for tests/e2e/tests/hang.rs. */
#include <linux/module.h>
#include <linux/stop_machine.h>
#include <linux/kthread.h>
#include <linux/cpu.h>
#include <linux/sched.h>

static bool irqs = true;
module_param(irqs, bool, 0444);

static noinline int hang_with_interrupts_off(void *unused)
{
	for (;;)
		cpu_relax();
	return 0;
}

static noinline int hang_with_interrupts_on(void *unused)
{
	preempt_disable();
	for (;;)
		cpu_relax();
	return 0;
}

static int __init hang_init(void)
{
	int cpu;

	if (!irqs)
		return stop_machine(hang_with_interrupts_off, NULL, cpu_online_mask);
	for_each_online_cpu(cpu) {
		struct task_struct *task =
			kthread_create_on_cpu(hang_with_interrupts_on, NULL, cpu, "hang/%u");

		if (IS_ERR(task))
			return PTR_ERR(task);
		sched_set_fifo(task);
		wake_up_process(task);
	}
	return 0;
}
module_init(hang_init);
MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("hangs a guest on purpose");
