/* Found before the compiler's own: every intrinsic by SIMDe, in software. */
#define SIMDE_ENABLE_NATIVE_ALIASES
#define SIMDE_NO_NATIVE
#include <simde/x86/avx512.h>

/* Two that SIMDe 0.7 lacks. */
#define _mm512_cmplt_epu32_mask(x, y) \
    ((__mmask16)~_mm512_cmple_epu32_mask(y, x))
#define _mm512_testn_epi32_mask(x, y) \
    _mm512_cmpeq_epi32_mask(_mm512_and_si512(x, y), _mm512_setzero_si512())
