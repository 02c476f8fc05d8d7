/*
 * The portable kernel: four nonces at once, with the vectors of GNU C, which
 * become SSE2 on any x86-64 and NEON on any 64-bit ARM processor.
 *
 * The idea and its source (FIPS 180-4) are in lanes.h.
 */
#include "kernel.h"

typedef uint32_t vec __attribute__((vector_size(16)));
#define LANES 4
#define STREAMS 1

static ALWAYS_INLINE vec
v_splat(uint32_t word)
{
	return ((vec){ word, word, word, word });
}

static ALWAYS_INLINE vec
v_load(const uint32_t * words)
{
	return (*(const vec *)(const void *)words);
}

#define v_add(x, y) ((x) + (y))
#define v_sub(x, y) ((x) - (y))
#define v_and(x, y) ((x) & (y))
#define v_or(x, y) ((x) | (y))
#define v_shr(x, n) ((x) >> (n))
#define v_rotr(x, n) ((x) >> (n) | (x) << (32 - (n)))
#define v_xor3(x, y, z) ((x) ^ (y) ^ (z))

static ALWAYS_INLINE vec
v_choose(vec e, vec f, vec g)
{
	return (g ^ (e & (f ^ g)));
}

static ALWAYS_INLINE vec
v_majority(vec a, vec b, vec c)
{
	return (b ^ ((a ^ b) & (b ^ c)));
}

static ALWAYS_INLINE vec
v_carry(vec x, vec sum, vec addend)
{
	return (x - (vec)(sum < addend));	/* true is -1 */
}

/* The hex digits of 16 bits. */
static ALWAYS_INLINE vec
hex(vec x)
{
	/* A digit a byte; 1 in those of 10 or more; and 'a' is '0' + 10 + 39. */
	vec digits = (x & v_splat(0xf000)) << 12 | (x & v_splat(0x0f00)) << 8 |
	    (x & v_splat(0x00f0)) << 4 | (x & v_splat(0x000f));
	vec letters = (digits + v_splat(0x06060606)) >> 4 & v_splat(0x01010101);

	return (digits + v_splat(0x30303030) +
	    (letters << 5) + (letters << 3) - letters);
}

#define v_hex_high(x) hex((x) >> 16)
#define v_hex_low(x) hex(x)

static ALWAYS_INLINE uint32_t
v_zeros(vec x)
{
	uint32_t zeros = 0;

	UNROLL
	for (int i = 0; i < LANES; i++)
		zeros |= (uint32_t)(x[i] == 0) << i;
	return (zeros);
}

#include "lanes.h"

uint64_t
reject_portable(const struct stretch * stretch)
{
	return (reject_lanes(stretch));
}
