/* SPDX-License-Identifier: Apache-2.0 */
#ifndef VICTIM_H
#define VICTIM_H

#include "quietcore.h"

struct thing {
	const char *name;
	void (*run)(long number);
};
/* How soon the handler of a violation runs: reaction.c. */
extern const struct thing reactions[];

static inline long call(long nr)
{
	long ret;

	asm volatile("syscall" : "=a"(ret) : "0"(nr) : "rcx", "r11", "memory");
	return ret;
}

#endif
