/*
 * The search kernel for GPUs, in OpenCL C 1.2: rejects nonces, and lists the others.
 *
 * A nonce n may be golden for a block if the first word of
 *
 *     SHA-256(hex(SHA-256(decimal(n) || block)))
 *
 * is 0 under `mask`.  The host program (opencl.py) hashes each listed nonce again.
 *
 * One rule: a kernel only rejects, as the kernels in C do (kernel.h, whose terms these
 * are).  A wrong result can lose a nonce, which the test at start detects, but a false
 * one is never reported.
 *
 * Idea: a work item tests LANES nonces at once, one in each element of a vector, and
 * goes on to nonces a power of two further, until all of a launch are tested.  All have
 * equally long texts.  So what is the same for all of them is summed once, by the host:
 * K + W of the constant words, their terms of the message schedule, the parts of a long
 * block.  The last block of the second message is the same padding for every nonce: its
 * K + W is a table.  Nonces are counted as text, in decimal (decimal.h has the
 * arithmetic), so that no number is ever divided.
 *
 * SHA-256 is FIPS 180-4: functions 4.1.2, constants 4.2.2, padding 5.1.1, initial hash
 * value 5.3.3, computation 6.2.2.
 *
 * Macros given by the host: LANES (1, 4, 8 or 16) and VARYING (3 or 5), the number of
 * leading words of the message that have digits: 3 for up to 12 digits.
 */

/* A vector type: its elements' numbers, whether any of a comparison's holds, a store. */
#if LANES == 1
typedef uint vec;
#define LANE_NUMBERS 0
#define ANY(comparison) (comparison)
#define STORE(v, p) (*(p) = (v))
#elif LANES == 4
typedef uint4 vec;
#define LANE_NUMBERS (uint4)(0, 1, 2, 3)
#define ANY(comparison) any(comparison)
#define STORE(v, p) vstore4(v, 0, p)
#elif LANES == 8
typedef uint8 vec;
#define LANE_NUMBERS (uint8)(0, 1, 2, 3, 4, 5, 6, 7)
#define ANY(comparison) any(comparison)
#define STORE(v, p) vstore8(v, 0, p)
#else
typedef uint16 vec;
#define LANE_NUMBERS (uint16)(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)
#define ANY(comparison) any(comparison)
#define STORE(v, p) vstore16(v, 0, p)
#endif

#define DIGIT_WORDS 5		/* that the 20 digits of 2**64 - 1 lie in */
#define POWERS 32

/* What is the same for all nonces of equal length.  opencl.py packs it. */
struct stretch {
	uint digits[DIGIT_WORDS];	/* 0xff in place of every digit */
	/* What to add to a text to go 1, 2, 4, ... steps on: see decimal.h. */
	uint addend[POWERS][DIGIT_WORDS];
	uint text_kw[16];	/* K + W of the first part, where W is constant */
	uint text_w[16];	/* W[16] to W[31], as far as constant words go into them */
	uint parts;		/* further parts of the message; K + W of each apart */
};

/* The functions of 4.1.2. */
#define ROTR(x, n) rotate((x), (vec)(32 - (n)))
#define CH(x, y, z) bitselect((z), (y), (x))
#define MAJ(x, y, z) bitselect((x), (y), (x) ^ (z))
#define BIG_SIGMA0(x) (ROTR(x, 2) ^ ROTR(x, 13) ^ ROTR(x, 22))
#define BIG_SIGMA1(x) (ROTR(x, 6) ^ ROTR(x, 11) ^ ROTR(x, 25))
#define SMALL_SIGMA0(x) (ROTR(x, 7) ^ ROTR(x, 18) ^ ((x) >> 3))
#define SMALL_SIGMA1(x) (ROTR(x, 17) ^ ROTR(x, 19) ^ ((x) >> 10))

/* One round (6.2.2, step 3); `kw` is K + W. */
#define ROUND(a, b, c, d, e, f, g, h, kw) do { \
	h += (kw) + BIG_SIGMA1(e) + CH(e, f, g); \
	d += h; \
	h += BIG_SIGMA0(a) + MAJ(a, b, c); \
} while (0)

/* Eight rounds from round t on, after which the variables have their places again. */
#define ROUNDS8(s, t, KW) do { \
	ROUND(s[0], s[1], s[2], s[3], s[4], s[5], s[6], s[7], KW((t) + 0)); \
	ROUND(s[7], s[0], s[1], s[2], s[3], s[4], s[5], s[6], KW((t) + 1)); \
	ROUND(s[6], s[7], s[0], s[1], s[2], s[3], s[4], s[5], KW((t) + 2)); \
	ROUND(s[5], s[6], s[7], s[0], s[1], s[2], s[3], s[4], KW((t) + 3)); \
	ROUND(s[4], s[5], s[6], s[7], s[0], s[1], s[2], s[3], KW((t) + 4)); \
	ROUND(s[3], s[4], s[5], s[6], s[7], s[0], s[1], s[2], KW((t) + 5)); \
	ROUND(s[2], s[3], s[4], s[5], s[6], s[7], s[0], s[1], KW((t) + 6)); \
	ROUND(s[1], s[2], s[3], s[4], s[5], s[6], s[7], s[0], KW((t) + 7)); \
} while (0)
#define ALL_ROUNDS(s, KW0, KW16, KW32) do { \
	ROUNDS8(s, 0, KW0); ROUNDS8(s, 8, KW0); \
	ROUNDS8(s, 16, KW16); ROUNDS8(s, 24, KW16); \
	ROUNDS8(s, 32, KW32); ROUNDS8(s, 40, KW32); \
	ROUNDS8(s, 48, KW32); ROUNDS8(s, 56, KW32); \
} while (0)

/* K + W by the number of the round: of a table, of words as given, of words made
 * when their round comes (6.2.2, step 1). */
#define KW_PADDING(t) PADDING_KW[t]
#define KW_GIVEN(t) (K[t] + w[t])
#define KW_MADE(t) (K[t] + (w[(t) & 15] += SMALL_SIGMA1(w[((t) + 14) & 15]) + \
    w[((t) + 9) & 15] + SMALL_SIGMA0(w[((t) + 1) & 15])))

/* The same in the first part of the message, whose words from VARYING on are constant. */
#define VARIES(i) ((i) < VARYING || (i) >= 16)
#define KW_TEXT(t) ((t) < VARYING ? K[t] + w[t] : (vec)(same->text_kw[t]))
#define KW_TEXT_MADE(t) (K[t] + (w[(t) & 15] = (vec)(same->text_w[(t) - 16]) + \
    (VARIES((t) - 16) ? w[(t) & 15] : (vec)(0)) + \
    (VARIES((t) - 15) ? SMALL_SIGMA0(w[((t) + 1) & 15]) : (vec)(0)) + \
    (VARIES((t) - 7) ? w[((t) + 9) & 15] : (vec)(0)) + \
    (VARIES((t) - 2) ? SMALL_SIGMA1(w[((t) + 14) & 15]) : (vec)(0))))

constant uint K[64] = {
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
	0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2
};

/* K + W of the block that pads a message of 64 bytes (kernel.h; a test derives it). */
constant uint PADDING_KW[64] = {
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
	0xd2c741c6, 0x07237ea3, 0xa4954b68, 0x4c191d76
};

/* Initial hash value (5.3.3). */
#define INITIAL { 0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, \
	0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19 }

#define ADD_ALL(s, t) do { \
	s[0] += t[0]; s[1] += t[1]; s[2] += t[2]; s[3] += t[3]; \
	s[4] += t[4]; s[5] += t[5]; s[6] += t[6]; s[7] += t[7]; \
} while (0)

/* The hex digits of the lower half of a word, as four characters (big-endian). */
static vec
hex(vec x)
{
	vec nibbles, letters;

	nibbles = ((x << 8) | x) & 0x00ff00ff;
	nibbles = ((nibbles << 4) | nibbles) & 0x0f0f0f0f;
	letters = ((nibbles + 0x06060606) >> 4) & 0x01010101;
	return (nibbles + 0x30303030 + letters * ('a' - '0' - 10));
}

/* Go on by an addend, in decimal, as decimal_add() in decimal.h does.  The addend's
 * elements may differ. */
static void
decimal_add(vec text[], const vec addend[], constant uint * digits)
{
	vec sum, high, carry = 0;
	int i;

#pragma unroll
	for (i = VARYING - 1; i >= 0; i--) {
		/* Of the addend's bytes, each digit's is far from 0xff: no overflow by 1. */
		sum = text[i] + addend[i] + carry;
		carry = select((vec)(0), (vec)(1), sum < text[i]);
		high = sum & (digits[i] & 0x80808080);
		sum -= (high >> 5) | (high >> 6);
		text[i] = (sum & ~(digits[i] & 0xf0f0f0f0)) | (digits[i] & 0x30303030);
	}
}

/* Store the text of the nonce `index` steps after that of `first`; it has `bits` bits. */
static void
text_of(vec text[], const uint first[], vec index, uint bits,
    constant struct stretch * same)
{
	vec addend[VARYING], chosen;
	uint bit;
	int i;

	for (i = 0; i < VARYING; i++)
		text[i] = first[i];
	for (bit = 0; bit < bits; bit++) {
		chosen = 0 - ((index >> bit) & 1);
		/* Adding nothing has 0xc6 in place of every digit, too. */
		for (i = 0; i < VARYING; i++)
			addend[i] = bitselect((vec)(same->digits[i] & 0xc6c6c6c6),
			    (vec)(same->addend[bit][i]), chosen);
		decimal_add(text, addend, same->digits);
	}
}

/* The hash of the first message, as eight words. */
static void
first_hash(vec s[8], const vec text[], constant struct stretch * same,
    global const uint * part_kw)
{
	const uint initial[8] = INITIAL;
	vec w[16], before[8];
	uint part;
	int i, t;

	for (i = 0; i < 8; i++)
		s[i] = initial[i];
	for (i = 0; i < VARYING; i++)
		w[i] = text[i];
	ALL_ROUNDS(s, KW_TEXT, KW_TEXT_MADE, KW_MADE);
	for (i = 0; i < 8; i++)
		s[i] += initial[i];
	for (part = 0; part < same->parts; part++) {
		for (i = 0; i < 8; i++)
			before[i] = s[i];
		for (t = 0; t < 64; t += 8) {
#define KW_PART(i) (vec)(part_kw[64 * part + (i)])
			ROUNDS8(s, t, KW_PART);
		}
		ADD_ALL(s, before);
	}
}

/* The first word of the hash of the second message: 64 hex digits, then padding. */
static vec
second_hash(const vec first[8])
{
	const uint initial[8] = INITIAL;
	vec s[8], w[16], middle[8];
	int i;

	for (i = 0; i < 8; i++) {
		w[2 * i] = hex(first[i] >> 16);
		w[2 * i + 1] = hex(first[i] & 0xffff);
		s[i] = initial[i];
	}
	ALL_ROUNDS(s, KW_GIVEN, KW_MADE, KW_MADE);
	for (i = 0; i < 8; i++)
		middle[i] = s[i] = s[i] + initial[i];
	ALL_ROUNDS(s, KW_PADDING, KW_PADDING, KW_PADDING);
	return (s[0] + middle[0]);
}

/*
 * Test `count` nonces of equal length.
 *
 * first: the leading words of the text of the first one.
 * power: log2 of the nonces that all work items together test at once.
 * found: how many may be golden; then which, at most `room`, in any order.
 */
kernel void
scan(constant struct stretch * same, global const uint * part_kw, uint8 first,
    uint count, uint power, uint mask, uint room, global uint * found)
{
	const uint start[DIGIT_WORDS] = { first.s0, first.s1, first.s2, first.s3, first.s4 };
	vec text[VARYING], addend[VARYING], index, hash[8], word;
	uint words[LANES], lane, place;
	int i;

	index = (vec)(LANES * (uint)get_global_id(0)) + LANE_NUMBERS;
	text_of(text, start, index, power, same);
	for (i = 0; i < VARYING; i++)
		addend[i] = same->addend[power][i];
	for (uint at = LANES * (uint)get_global_id(0); at < count; at += 1u << power) {
		first_hash(hash, text, same, part_kw);
		word = second_hash(hash) & mask;
		if (ANY(word == 0)) {
			STORE(word, words);
			for (lane = 0; lane < LANES; lane++) {
				if (words[lane] != 0 || at + lane >= count)
					continue;
				place = atomic_inc(found);
				if (place < room)
					found[1 + place] = at + lane;
			}
		}
		decimal_add(text, addend, same->digits);
	}
}
