/* The draw from the prior in imagination: an MLP, logits, one-hot latents (float32, on a CPU). */

#include "products.h"
#include "vector.h"

#define BLOCK 32 /* rows that go through all layers together */

void draw_latents(int32_t threads, int64_t rows, int64_t latents, int64_t classes, float unimix, const float *logits,
                  const float *bias, const float *uniform, float *out, int64_t out_stride);

static int64_t panels(int64_t m) { return (m + PANEL - 1) / PANEL * PANEL; }

/* native/kernels.py has the same names in the same order. */
struct prior {
    int64_t threads, N, D, units, layers, S, K, h_stride;
    const float *unimix, *h, *noise; /* (), (N, D), (N, S) */
    float *z, *scratch;              /* (N, S·K); all weights in whole panels, then (threads, 2·units + S·K, BLOCK) */
    const float *const *weights;     /* of each layer: weight (out, in), bias, scale; then of the logits */
};

static void draw_block(const struct prior *s, const float *w, const float *bias, float *work, int64_t first,
                       int64_t rows) {
    int64_t in = s->D, in_stride = s->h_stride, Z = s->S * s->K;
    const float *x = s->h + first * s->h_stride;
    float *logits = work + 2 * BLOCK * s->units;
    for (int64_t i = 0; i < s->layers; i++) {
        float *y = work + i % 2 * BLOCK * s->units;
        multiply_packed(rows, in, s->units, x, in_stride, w, y, s->units, 0);
        for (int64_t r = 0; r < rows; r++)
            norm_silu_row(s->units, y + r * s->units, s->weights[3 * i + 1], s->weights[3 * i + 2], 0,
                          y + r * s->units);
        w += in * panels(s->units);
        x = y;
        in = in_stride = s->units;
    }
    multiply_packed(rows, in, Z, x, in_stride, w, logits, Z, 0);
    draw_latents(1, rows, s->S, s->K, *s->unimix, logits, bias, s->noise + first * s->S, s->z + first * Z, Z);
}

void draw_prior(const struct prior *s) {
    int64_t in = s->D, Z = s->S * s->K;
    float *to = s->scratch, bias[Z];
    for (int64_t i = 0; i < s->layers; i++) {
        pack_weight(in, s->units, s->weights[3 * i], 1, to);
        to += in * panels(s->units);
        in = s->units;
    }
    pack_weight(in, Z, s->weights[3 * s->layers], s->K, to); /* classes first, as they are drawn */
    to += in * panels(Z);
    for (int64_t j = 0; j < Z; j++) bias[j] = s->weights[3 * s->layers + 1][j % s->S * s->K + j / s->S];
#pragma omp parallel for schedule(static) num_threads(s->threads)
    for (int64_t first = 0; first < s->N; first += BLOCK)
        draw_block(s, s->scratch, bias, to + omp_get_thread_num() * BLOCK * (2 * s->units + Z), first,
                   s->N - first < BLOCK ? s->N - first : BLOCK);
}
