/*
 * Scans as told on standard input, for tests that cannot load the library: under
 * sanitizers, for another processor, with an instruction set in software.
 *
 * First a line for every kernel: its name, and whether it is supported.  Then, for
 * every line "kernel difficulty start step count block" (the block in hex, or -),
 * one: "result tested nonce".
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "scan.h"

static size_t
unhex(uint8_t * bytes, const char * text)
{
	char pair[3] = { 0 };
	size_t n = 0;

	if (strcmp(text, "-") == 0)
		return (0);
	for (; text[0] != '\0'; text += 2) {
		memcpy(pair, text, 2);
		bytes[n++] = (uint8_t)strtoul(pair, NULL, 16);
	}
	return (n);
}

int
main(void)
{
	static char text[2 * MAX_BLOCK + 1];
	uint64_t start, step, count, tested, nonce;
	unsigned kernel, difficulty;
	uint8_t * block;
	size_t length;
	int result;

	for (kernel = 0; cnd_kernel_name(kernel) != NULL; kernel++)
		printf("%s %d\n", cnd_kernel_name(kernel),
		    cnd_kernel_supported(kernel));
	printf("\n");
	while (scanf("%u %u %" SCNu64 " %" SCNu64 " %" SCNu64 " %8192s", &kernel,
	    &difficulty, &start, &step, &count, text) == 6) {
		/* As long as the block, so that a sanitizer sees a byte too far. */
		length = strlen(text) / 2;
		block = malloc(length > 0 ? length : 1);
		if (block == NULL)
			return (1);
		length = unhex(block, text);
		nonce = 0;
		result = cnd_scan(kernel, block, length, difficulty, start, step,
		    count, NULL, &tested, &nonce);
		printf("%d %" PRIu64 " %" PRIu64 "\n", result, tested, nonce);
		free(block);
	}
	return (0);
}
