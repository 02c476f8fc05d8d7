/*
 * The native search kernels: what they share.
 *
 * A kernel tests the nonces of one stretch, in ascending order, as fast as one
 * instruction set allows.  A nonce n is golden for a block if
 *
 *     SHA-256(hex(SHA-256(decimal(n) || block)))
 *
 * begins with `difficulty` zero hex digits.  hex() gives the 64 lower-case digits
 * of a hash, so the second message takes two blocks, of which the latter is the
 * same padding for every nonce.
 *
 * One rule: a kernel only rejects.  It checks the first word of the last hash, and the
 * plain code checks every nonce that this word does not reject (scan.c).  So a wrong
 * kernel can miss a golden nonce, which the self-test at start detects, but it can
 * never report a false one.
 *
 * There are no mutable globals and no allocation: any number of threads may scan.
 *
 * SHA-256 is FIPS 180-4: functions 4.1.2, constants 4.2.2, padding 5.1.1, initial
 * hash value 5.3.3, computation 6.2.2.  A comment that gives just a section means
 * that standard.
 */
#ifndef CND_KERNEL_H
#define CND_KERNEL_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* Part of the interface of the library; everything else is hidden in it. */
#define CND_PUBLIC __attribute__((visibility("default")))

#define ALWAYS_INLINE inline __attribute__((always_inline))
#define NOINLINE __attribute__((noinline))
#define UNLIKELY(condition) __builtin_expect(!!(condition), 0)

/*
 * Before a loop: its index must be a constant, so that arrays become registers; its
 * code must stay short, so that the processor need not decode it again.
 */
#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#define ROLLED _Pragma("clang loop unroll(disable)")
#else
#define UNROLL _Pragma("GCC unroll 64")
#define ROLLED _Pragma("GCC unroll 1")
#endif

enum {
	MAX_DIGITS = 20,	/* of 2**64 - 1 in decimal */
	NONCE_WORDS = 5,	/* that those digits lie in */
	FEW_NONCE_WORDS = 3,	/* for nonces of up to 12 digits: nearly all */
	MAX_BLOCK = 4096,	/* bytes; as in pow.py */
	/* SHA-256 blocks of the longest message, padding included. */
	MAX_PARTS = (MAX_DIGITS + MAX_BLOCK + 9 + 63) / 64
};

/*
 * One stretch of nonces whose decimal texts are equally long, so that everything
 * but the digits is the same for all of them.
 *
 * The message is cut into parts of 64 bytes.  The nonce stands in front, so only
 * the first part changes, and in it only the leading `varying` words.
 */
struct stretch {
	uint64_t first, step, count;	/* count below 2**63 */
	const volatile int * stop;	/* not 0: return soon */
	unsigned digits;		/* of every nonce: 1 to 20 */
	unsigned varying;		/* FEW_NONCE_WORDS or NONCE_WORDS */
	uint32_t mask;			/* of a hash's first word: 0 if golden */

	/* The first part, big-endian, with the digits of `first` in it. */
	uint32_t text[16] __attribute__((aligned(64)));
	/* 0xff in place of every digit of the nonce in it. */
	uint32_t digit_mask[NONCE_WORDS];
	/* K + W of the first part; meaningful where W is constant. */
	uint32_t text_kw[16] __attribute__((aligned(64)));
	/* W[16] to W[31] of it, as far as constant words go into them. */
	uint32_t text_w[16] __attribute__((aligned(64)));
	/* K + W of the other parts. */
	unsigned parts;			/* how many: 0 for up to 55 bytes */
	uint32_t part_kw[MAX_PARTS][64] __attribute__((aligned(64)));
};

/*
 * Reject nonces from the first one on.  Return how many were rejected: all, or
 * fewer because the next one may be golden, or because `stop` was raised.
 */
typedef uint64_t reject_fn(const struct stretch *);

/* One way to reject nonces, and whether this processor can. */
struct kernel {
	const char * name;
	int (*supported)(void);
	reject_fn * reject;
};

/* Those of this architecture; the last one's name is NULL. */
extern const struct kernel KERNELS[];

reject_fn reject_scalar;
reject_fn reject_portable;
reject_fn reject_avx2;
reject_fn reject_avx512;
reject_fn reject_shani;
reject_fn reject_shani_avx512vl;
reject_fn reject_armv8;

/**
 * nonce_text(words, stretch, nonce):
 * Store the leading words of the first part of the message of ${nonce}.
 */
void nonce_text(uint32_t words[NONCE_WORDS], const struct stretch * stretch,
    uint64_t nonce);

/**
 * step_addend(addend, stretch, times):
 * Store what decimal_add() takes to go ${times} steps on.
 */
void step_addend(uint32_t addend[NONCE_WORDS], const struct stretch * stretch,
    unsigned times);

/**
 * nonce_hash(hash, stretch, nonce):
 * Store the hash of ${nonce}, by the plain code, as eight words.
 */
void nonce_hash(uint32_t hash[8], const struct stretch * stretch,
    uint64_t nonce);

/* Constants of the rounds (4.2.2). */
static const uint32_t K[64] __attribute__((aligned(64))) = {
	0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1,
	0x923f82a4, 0xab1c5ed5, 0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3,
	0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174, 0xe49b69c1, 0xefbe4786,
	0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
	0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147,
	0x06ca6351, 0x14292967, 0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13,
	0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85, 0xa2bfe8a1, 0xa81a664b,
	0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
	0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a,
	0x5b9cca4f, 0x682e6ff3, 0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208,
	0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
};

/*
 * K + W of the block that pads a message of 64 bytes (5.1.1): a one bit, zeros,
 * and the length, 512 bits.  A test derives it again.
 */
static const uint32_t PADDING_KW[64] __attribute__((aligned(64))) = {
	0xc28a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1,
	0x923f82a4, 0xab1c5ed5, 0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3,
	0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf374, 0x649b69c1, 0xf0fe4786,
	0x0fe1edc6, 0x240cf254, 0x4fe9346f, 0x6cc984be, 0x61b9411e, 0x16f988fa,
	0xf2c65152, 0xa88e5a6d, 0xb019fc65, 0xb9d99ec7, 0x9a1231c3, 0xe70eeaa0,
	0xfdb1232b, 0xc7353eb0, 0x3069bad5, 0xcb976d5f, 0x5a0f118f, 0xdc1eeefd,
	0x0a35b689, 0xde0b7a04, 0x58f4ca9d, 0xe15d5b16, 0x007f3e86, 0x37088980,
	0xa507ea32, 0x6fab9537, 0x17406110, 0x0d8cd6f1, 0xcdaa3b6d, 0xc0bbbe37,
	0x83613bda, 0xdb48a363, 0x0b02e931, 0x6fd15ca7, 0x521afaca, 0x31338431,
	0x6ed41a95, 0x6d437890, 0xc39c91f2, 0x9eccabbd, 0xb5c9a0e6, 0x532fb63c,
	0xd2c741c6, 0x07237ea3, 0xa4954b68, 0x4c191d76,
};

/* Initial hash value (5.3.3). */
static const uint32_t INITIAL[8] __attribute__((aligned(32))) = {
	0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
	0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19
};

#endif /* !CND_KERNEL_H */
