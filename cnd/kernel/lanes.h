/*
 * SHA-256 on vectors: every lane hashes a nonce of its own.
 *
 * Idea: a word of the standard becomes a vector, one element a lane, so the text of
 * FIPS 180-4 stays as it is and LANES nonces are rejected at once.  Three things
 * are saved.  The last block of the second message is padding, its schedule a table.
 * What does not depend on the nonce in the first block's schedule is computed
 * once a stretch.  And the nonces are counted in decimal, as text, all lanes with a
 * few instructions (decimal.h has the arithmetic).
 *
 * STREAMS vectors take turns, round by round.  A round is a chain of instructions that
 * wait for each other; the processor fills the waiting with the other streams, as far
 * as their variables fit the registers.
 *
 * The code has to stay short.  A processor keeps some thousands of decoded
 * instructions at hand, and decodes at half the speed that these can run at.  So the
 * rounds are loops of eight, both messages take the same ones, and the words of the
 * schedule lie in memory (docs/kernel.md has the figures).
 *
 * A file that includes this one says what a vector is and how to do each step:
 *
 *     vec, LANES                   a vector of LANES words
 *     STREAMS                      vectors that take turns; STREAMS * LANES up to 64
 *     v_splat(word), v_load(words) LANES times a word; words, 64-byte aligned
 *     v_add, v_sub, v_and, v_or    as named
 *     v_shr(x, n), v_rotr(x, n)    n a constant
 *     v_xor3(x, y, z)              x ^ y ^ z
 *     v_choose, v_majority         Ch and Maj of 4.1.2
 *     v_carry(x, sum, addend)      x + 1 in lanes where sum < addend, else x
 *     v_hex_high, v_hex_low(x)     hex digits of the upper, lower half of a word
 *     v_zeros(x)                   a bit for each lane that is 0; lane 0 lowest
 */
#ifndef CND_LANES_H
#define CND_LANES_H

#include "kernel.h"

/* A word of the standard, of every nonce of a batch. */
typedef vec word[STREAMS];

enum { BATCH = STREAMS * LANES };

#define EACH(k) UNROLL for (int k = 0; k < STREAMS; k++)

static ALWAYS_INLINE vec
v_big_sigma0(vec x)
{
	return (v_xor3(v_rotr(x, 2), v_rotr(x, 13), v_rotr(x, 22)));
}

static ALWAYS_INLINE vec
v_big_sigma1(vec x)
{
	return (v_xor3(v_rotr(x, 6), v_rotr(x, 11), v_rotr(x, 25)));
}

static ALWAYS_INLINE vec
v_small_sigma0(vec x)
{
	return (v_xor3(v_rotr(x, 7), v_rotr(x, 18), v_shr(x, 3)));
}

static ALWAYS_INLINE vec
v_small_sigma1(vec x)
{
	return (v_xor3(v_rotr(x, 17), v_rotr(x, 19), v_shr(x, 10)));
}

/*
 * Round t (6.2.2, step 3) of stream k, given K + W.  The variables stay where they are
 * and their names move on: a of round t is s[-t modulo 8], b the one after it.
 */
static ALWAYS_INLINE void
one_round(word s[8], int k, int t, vec kw)
{
#define VAR(i) s[((i) - t) & 7][k]
	vec t1 = v_add(v_add(v_add(VAR(7), kw),
	    v_choose(VAR(4), VAR(5), VAR(6))), v_big_sigma1(VAR(4)));
	vec t2 = v_add(v_big_sigma0(VAR(0)),
	    v_majority(VAR(0), VAR(1), VAR(2)));

	VAR(3) = v_add(VAR(3), t1);
	VAR(7) = v_add(t1, t2);
#undef VAR
}

/* Rounds t to t + 7, whose words are there. */
static ALWAYS_INLINE void
given_rounds(word s[8], word w[64], int t)
{
	UNROLL
	for (int i = 0; i < 8; i++)
		EACH(k)
			one_round(s, k, i, v_add(w[t + i][k], v_splat(K[t + i])));
}

/* The same, each word made when its round comes (step 1). */
static ALWAYS_INLINE void
scheduled_rounds(word s[8], word w[64], int t)
{
	UNROLL
	for (int i = 0; i < 8; i++) {
		word * at = &w[t + i], new;

		EACH(k) {
			new[k] = v_add(v_add(at[-16][k], at[-7][k]),
			    v_add(v_small_sigma0(at[-15][k]),
			    v_small_sigma1(at[-2][k])));
			at[0][k] = new[k];
		}
		EACH(k)
			one_round(s, k, i, v_add(new[k], v_splat(K[t + i])));
	}
}

/* The hash of a message's first block, of which `given` words are there. */
static NOINLINE void
first_hash(word hash[8], word w[64], int given)
{
	word s[8];
	int t;

	UNROLL
	for (int i = 0; i < 8; i++)
		EACH(k)
			s[i][k] = v_splat(INITIAL[i]);
	/* The first ones apart: the compiler adds up what is constant in them. */
	given_rounds(s, w, 0);
	ROLLED
	for (t = 8; t < given; t += 8)
		given_rounds(s, w, t);
	ROLLED
	for (; t < 64; t += 8)
		scheduled_rounds(s, w, t);
	UNROLL
	for (int i = 0; i < 8; i++)
		EACH(k)
			hash[i][k] = v_add(s[i][k], v_splat(INITIAL[i]));
}

/* W[16] to W[31] of a block of which only the leading `varying` words vary. */
static ALWAYS_INLINE void
first_schedule(word w[64], int k, const struct stretch * stretch,
    const int varying)
{
	/* The terms of the other words are summed up in text_w. */
#define VARIES(i) ((i) < varying || (i) >= 16)
	UNROLL
	for (int t = 16; t < 32; t++) {
		vec new = v_splat(stretch->text_w[t - 16]);

		if (VARIES(t - 16))
			new = v_add(new, w[t - 16][k]);
		if (VARIES(t - 15))
			new = v_add(new, v_small_sigma0(w[t - 15][k]));
		if (VARIES(t - 7))
			new = v_add(new, w[t - 7][k]);
		if (VARIES(t - 2))
			new = v_add(new, v_small_sigma1(w[t - 2][k]));
		w[t][k] = new;
	}
#undef VARIES
}

/* Go on with a message's block of constants, given as K + W. */
static NOINLINE void
constant_block(word hash[8], const uint32_t kw[64])
{
	word s[8];

	UNROLL
	for (int i = 0; i < 8; i++)
		EACH(k)
			s[i][k] = hash[i][k];
	ROLLED
	for (int t = 0; t < 64; t += 8) {
		UNROLL
		for (int i = 0; i < 8; i++)
			EACH(k)
				one_round(s, k, i, v_splat(kw[t + i]));
	}
	UNROLL
	for (int i = 0; i < 8; i++)
		EACH(k)
			hash[i][k] = v_add(hash[i][k], s[i][k]);
}

/* The words of the second message: the hex digits of the first one's hash. */
static ALWAYS_INLINE void
set_hex(word w[64], word hash[8])
{
	ROLLED
	for (int k = 0; k < STREAMS; k++) {
		UNROLL
		for (int i = 0; i < 8; i++) {
			w[2 * i][k] = v_hex_high(hash[i][k]);
			w[2 * i + 1][k] = v_hex_low(hash[i][k]);
		}
	}
}

/* A bit for each nonce of a batch whose word has none of the mask's; lowest first. */
static ALWAYS_INLINE uint64_t
zeros(word x, uint32_t mask)
{
	uint64_t bits = 0;

	EACH(k)
		bits |= (uint64_t)v_zeros(v_and(x[k], v_splat(mask))) << k * LANES;
	return (bits);
}

/* Stream k goes on by an addend, in decimal: as decimal_add() does. */
static ALWAYS_INLINE void
v_decimal_add(word text[], int k, const uint32_t addend[],
    const uint32_t digit_mask[], const int words)
{
	vec sum = text[0][k], sixes;

	UNROLL
	for (int i = words - 1; i >= 0; i--) {
		vec more = v_add(text[i][k], v_splat(addend[i]));

		if (i < words - 1)
			more = v_carry(more, sum, text[i + 1][k]);
		/* The word after it is not needed any more: correct it. */
		if (i < words - 1)
			text[i + 1][k] = sum;
		sum = more;
	}
	text[0][k] = sum;
	UNROLL
	for (int i = 0; i < words; i++) {
		sixes = v_and(text[i][k], v_splat(digit_mask[i] & 0x80808080));
		sixes = v_or(v_shr(sixes, 5), v_shr(sixes, 6));
		sum = v_sub(text[i][k], sixes);
		sum = v_and(sum, v_splat(~(digit_mask[i] & 0xf0f0f0f0)));
		text[i][k] = v_or(sum, v_splat(digit_mask[i] & 0x30303030));
	}
}

/* The words of a batch of nonces' texts; `text` goes on to the next batch. */
static ALWAYS_INLINE void
set_text(word w[64], word text[NONCE_WORDS], const struct stretch * stretch,
    const uint32_t addend[NONCE_WORDS], const int varying)
{
	ROLLED
	for (int k = 0; k < STREAMS; k++) {
		UNROLL
		for (int t = 0; t < varying; t++)
			w[t][k] = text[t][k];
		first_schedule(w, k, stretch, varying);
		v_decimal_add(text, k, addend, stretch->digit_mask, varying);
	}
}

/* The nonces of the first batch, one a lane. */
static ALWAYS_INLINE void
first_texts(word text[NONCE_WORDS], const struct stretch * stretch)
{
	uint32_t words[NONCE_WORDS][BATCH] __attribute__((aligned(64)));
	uint32_t lane[NONCE_WORDS];
	unsigned i, j;

	for (i = 0; i < BATCH; i++) {
		nonce_text(lane, stretch, stretch->first + i * stretch->step);
		for (j = 0; j < NONCE_WORDS; j++)
			words[j][i] = lane[j];
	}
	for (j = 0; j < NONCE_WORDS; j++)
		EACH(k)
			text[j][k] = v_load(&words[j][k * LANES]);
}

static ALWAYS_INLINE uint64_t
reject_varying(const struct stretch * stretch, const int varying)
{
	word text[NONCE_WORDS], first[64], second[64], hash[8];
	uint32_t addend[NONCE_WORDS];
	uint64_t i, candidate, candidates;
	unsigned part;

	first_texts(text, stretch);
	step_addend(addend, stretch, BATCH);
	for (int t = varying; t < 16; t++)
		EACH(k)
			first[t][k] = v_splat(stretch->text[t]);
	for (i = 0; i < stretch->count && !*stretch->stop; i += BATCH) {
		set_text(first, text, stretch, addend, varying);
		first_hash(hash, first, 32);
		for (part = 0; UNLIKELY(part < stretch->parts); part++)
			constant_block(hash, stretch->part_kw[part]);
		set_hex(second, hash);
		first_hash(hash, second, 16);
		constant_block(hash, PADDING_KW);
		candidates = zeros(hash[0], stretch->mask);
		if (UNLIKELY(candidates != 0)) {
			candidate = i + (unsigned)__builtin_ctzll(candidates);
			if (candidate < stretch->count)
				return (candidate);
		}
	}
	return (i < stretch->count ? i : stretch->count);
}

static ALWAYS_INLINE uint64_t
reject_lanes(const struct stretch * stretch)
{
	if (stretch->varying == FEW_NONCE_WORDS)
		return (reject_varying(stretch, FEW_NONCE_WORDS));
	return (reject_varying(stretch, NONCE_WORDS));
}

#endif /* !CND_LANES_H */
