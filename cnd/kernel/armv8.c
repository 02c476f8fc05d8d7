/*
 * ARMv8 SHA2: a few nonces at once, each in a stream of its own.
 *
 * Idea: sha256h and sha256h2 do four rounds (FIPS 180-4, 6.2.2, step 3), one giving
 * the new {a, b, c, d}, the other {e, f, g, h}; each waits for the rounds before,
 * so STREAMS independent hashes take turns.  sha256su0 and sha256su1 make four
 * words of the schedule (step 1).
 */
#if defined(__aarch64__)
#include <arm_neon.h>

#include "decimal.h"
#include "kernel.h"

#define STREAMS 4

typedef uint32x4_t vec;

/* One vector of each stream. */
struct each {
	vec of[STREAMS];
};

#define EACH(k) UNROLL for (int k = 0; k < STREAMS; k++)

/* The variables of each stream. */
struct state {
	struct each abcd, efgh;
};

static ALWAYS_INLINE void
set_initial(struct state * s)
{
	EACH(k) {
		s->abcd.of[k] = vld1q_u32(&INITIAL[0]);
		s->efgh.of[k] = vld1q_u32(&INITIAL[4]);
	}
}

static ALWAYS_INLINE void
add_state(struct state * s, const struct state * t)
{
	EACH(k) {
		s->abcd.of[k] = vaddq_u32(s->abcd.of[k], t->abcd.of[k]);
		s->efgh.of[k] = vaddq_u32(s->efgh.of[k], t->efgh.of[k]);
	}
}

/* Four rounds, given K + W of each stream. */
static ALWAYS_INLINE void
four_rounds(struct state * s, const struct each * kw)
{
	struct each before = s->abcd;

	EACH(k)
		s->abcd.of[k] = vsha256hq_u32(s->abcd.of[k], s->efgh.of[k],
		    kw->of[k]);
	EACH(k)
		s->efgh.of[k] = vsha256h2q_u32(s->efgh.of[k], before.of[k],
		    kw->of[k]);
}

/* Four rounds with the same K + W for all. */
static ALWAYS_INLINE void
four_constant(struct state * s, const uint32_t kw[4])
{
	struct each same;

	EACH(k)
		same.of[k] = vld1q_u32(kw);
	four_rounds(s, &same);
}

/* Four rounds with the words `w`; `t` is the number of the first. */
static ALWAYS_INLINE void
four_words(struct state * s, const struct each * w, int t)
{
	struct each kw;

	EACH(k)
		kw.of[k] = vaddq_u32(w->of[k], vld1q_u32(&K[t]));
	four_rounds(s, &kw);
}

/* The four words after the sixteen in w[i], w[i + 1], ..., in place of w[i]. */
static ALWAYS_INLINE void
next_words(struct each w[4], int i)
{
	struct each * a = &w[i & 3], * b = &w[(i + 1) & 3];
	struct each * c = &w[(i + 2) & 3], * d = &w[(i + 3) & 3];

	EACH(k)
		a->of[k] = vsha256su1q_u32(vsha256su0q_u32(a->of[k], b->of[k]),
		    c->of[k], d->of[k]);
}

/* Rounds 16 to 63. */
static ALWAYS_INLINE void
scheduled_rounds(struct state * s, struct each w[4])
{
	UNROLL
	for (int i = 4; i < 16; i++) {
		next_words(w, i);
		four_words(s, &w[i & 3], 4 * i);
	}
}

static ALWAYS_INLINE void
constant_block(struct state * s, const uint32_t kw[64])
{
	UNROLL
	for (int t = 0; t < 64; t += 4)
		four_constant(s, &kw[t]);
}

/* The first block: the nonces' texts, and what follows them in every one. */
static ALWAYS_INLINE void
first_block(struct state * s, const struct decimal text[STREAMS],
    const struct stretch * stretch, const int varying)
{
	struct each w[4];

	EACH(k) {
		w[0].of[k] = vreinterpretq_u32_u64(vcombine_u64(
		    vcreate_u64(text[k].high << 32 | text[k].high >> 32),
		    vcreate_u64(text[k].low << 32 | text[k].low >> 32)));
		w[1].of[k] = vld1q_u32(&stretch->text[4]);
		if (varying > 4)
			w[1].of[k] = vsetq_lane_u32(text[k].last, w[1].of[k], 0);
		w[2].of[k] = vld1q_u32(&stretch->text[8]);
		w[3].of[k] = vld1q_u32(&stretch->text[12]);
	}
	four_words(s, &w[0], 0);
	if (varying > 4)
		four_words(s, &w[1], 4);
	else
		four_constant(s, &stretch->text_kw[4]);
	four_constant(s, &stretch->text_kw[8]);
	four_constant(s, &stretch->text_kw[12]);
	scheduled_rounds(s, w);
}

/* The hex digits of four words. */
static ALWAYS_INLINE void
hex(vec * words01, vec * words23, vec words)
{
	static const uint8_t DIGITS[16] = {
		'0', '1', '2', '3', '4', '5', '6', '7',
		'8', '9', 'a', 'b', 'c', 'd', 'e', 'f'
	};
	uint8x16_t digits = vld1q_u8(DIGITS);
	uint8x16_t bytes = vrev32q_u8(vreinterpretq_u8_u32(words));
	uint8x16_t high = vqtbl1q_u8(digits, vshrq_n_u8(bytes, 4));
	uint8x16_t low = vqtbl1q_u8(digits, vandq_u8(bytes, vdupq_n_u8(15)));

	*words01 = vreinterpretq_u32_u8(vrev32q_u8(vzip1q_u8(high, low)));
	*words23 = vreinterpretq_u32_u8(vrev32q_u8(vzip2q_u8(high, low)));
}

/* The second message: 64 hex digits, then padding.  Store {a, b, c, d} of it. */
static ALWAYS_INLINE void
second_hash(struct each * abcd, const struct state * first)
{
	struct state s, middle;
	struct each w[4];

	EACH(k) {
		hex(&w[0].of[k], &w[1].of[k], first->abcd.of[k]);
		hex(&w[2].of[k], &w[3].of[k], first->efgh.of[k]);
	}
	set_initial(&s);
	UNROLL
	for (int i = 0; i < 4; i++)
		four_words(&s, &w[i], 4 * i);
	scheduled_rounds(&s, w);
	set_initial(&middle);
	add_state(&s, &middle);
	*abcd = s.abcd;
	constant_block(&s, PADDING_KW);
	EACH(k)
		abcd->of[k] = vaddq_u32(abcd->of[k], s.abcd.of[k]);
}

/* A bit for each stream whose `a` has none of the mask's. */
static ALWAYS_INLINE unsigned
zeros(const struct each * abcd, uint32_t mask)
{
	unsigned bits = 0;

	EACH(k)
		bits |= (unsigned)((vgetq_lane_u32(abcd->of[k], 0) & mask) == 0)
		    << k;
	return (bits);
}

static ALWAYS_INLINE uint64_t
reject_varying(const struct stretch * stretch, const int varying)
{
	uint32_t words[NONCE_WORDS];
	struct decimal text[STREAMS];
	struct decimal_step step;
	struct state s, start;
	struct each abcd;
	uint64_t i, candidate;
	unsigned part, candidates;

	for (unsigned k = 0; k < STREAMS; k++) {
		nonce_text(words, stretch, stretch->first + k * stretch->step);
		text[k] = decimal_of(words);
	}
	step_addend(words, stretch, STREAMS);
	step.addend = decimal_of(words);
	step.digits = decimal_of(stretch->digit_mask);

	for (i = 0; i < stretch->count && !*stretch->stop; i += STREAMS) {
		set_initial(&s);
		first_block(&s, text, stretch, varying);
		set_initial(&start);
		add_state(&s, &start);
		for (part = 0; UNLIKELY(part < stretch->parts); part++) {
			start = s;
			constant_block(&s, stretch->part_kw[part]);
			add_state(&s, &start);
		}
		second_hash(&abcd, &s);
		candidates = zeros(&abcd, stretch->mask);
		if (UNLIKELY(candidates != 0)) {
			candidate = i + (unsigned)__builtin_ctz(candidates);
			if (candidate < stretch->count)
				return (candidate);
		}
		EACH(k)
			text[k] = decimal_add(text[k], &step, varying);
	}
	return (i < stretch->count ? i : stretch->count);
}

uint64_t
reject_armv8(const struct stretch * stretch)
{
	if (stretch->varying == FEW_NONCE_WORDS)
		return (reject_varying(stretch, FEW_NONCE_WORDS));
	return (reject_varying(stretch, NONCE_WORDS));
}
#endif
