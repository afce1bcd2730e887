/* What the kernels share: functions of vectors, and RMSNorm with SiLU of one row. */

#pragma once

#include <math.h>
#include <stdint.h>
#include <string.h>

#define EPSILON 1e-4f /* of RMSNorm */
#define INLINE static inline __attribute__((always_inline)) /* knows its constant arguments where it is called */

static inline int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }
static inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

/* Cody-Waite reduction and a polynomial of degree 6 (Cephes' expf): 2 ulp. It saturates at 2^-100 and
 * 2^60, so that neither denormal numbers, which are slow, nor products that overflow come of it. */
static inline float exponential(float x) {
    float n = rintf(x * 1.44269504088896341f);
    float r = x - n * 0.693359375f;
    r = r + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    int32_t exponent = (int32_t)n;
    exponent = exponent < -100 ? -100 : exponent;
    exponent = exponent > 60 ? 60 : exponent;
    int32_t bits = (exponent + 127) << 23; /* 2^n */
    float power;
    memcpy(&power, &bits, sizeof power);
    return p * power;
}

static inline float sigmoid(float x) { return 1.0f / (1.0f + exponential(-x)); }

/* Classes rounded up to whole vectors: the rest of a vector would be treated one by one. */
static inline int64_t whole(int64_t classes) { return (classes + 15) / 16 * 16; }

/* 1/rms(x + bias) of one row; bias may be null. */
static inline float rstd_row(int64_t width, const float *x, const float *bias) {
    float sum = 0.0f;
    if (bias) {
#pragma omp simd reduction(+ : sum)
        for (int64_t i = 0; i < width; i++) {
            float value = x[i] + bias[i];
            sum += value * value;
        }
    } else {
#pragma omp simd reduction(+ : sum)
        for (int64_t i = 0; i < width; i++) sum += x[i] * x[i];
    }
    return 1.0f / sqrtf(sum / (float)width + EPSILON);
}

/* x_hat = (x + bias)·rstd, y = SiLU(scale·x_hat). bias and x_hat may be null. */
static inline void scaled_silu_row(int64_t width, const float *x, const float *bias, float rstd,
                                   const float *scale, float *x_hat, float *y) {
    float *kept = x_hat ? x_hat : y; /* y overwrites it where it is not wanted */
    if (bias) {
#pragma omp simd
        for (int64_t i = 0; i < width; i++) kept[i] = (x[i] + bias[i]) * rstd;
    } else {
#pragma omp simd
        for (int64_t i = 0; i < width; i++) kept[i] = x[i] * rstd;
    }
#pragma omp simd
    for (int64_t i = 0; i < width; i++) {
        float scaled = kept[i] * scale[i];
        y[i] = scaled * sigmoid(scaled);
    }
}

/* Both: SiLU(RMSNorm(x + bias)) of one row. Returns 1/rms. */
static inline float norm_silu_row(int64_t width, const float *x, const float *bias, const float *scale,
                                  float *x_hat, float *y) {
    float rstd = rstd_row(width, x, bias);
    scaled_silu_row(width, x, bias, rstd, scale, x_hat, y);
    return rstd;
}

/* The same for rows `x_stride` and `y_stride` apart: x_hat lies as x does, and both x_hat and y may be x. Keeps
 * 1/rms, `rstd_stride` apart: a row's root and quotient keep the next one waiting, so they come all at once. */
static inline void norm_silu_rows(int64_t rows, int64_t width, const float *x, int64_t x_stride, const float *bias,
                                  const float *scale, float *x_hat, float *rstd, int64_t rstd_stride, float *y,
                                  int64_t y_stride) {
    for (int64_t r = 0; r < rows; r++) rstd[r * rstd_stride] = rstd_row(width, x + r * x_stride, bias);
    for (int64_t r = 0; r < rows; r++)
        scaled_silu_row(width, x + r * x_stride, bias, rstd[r * rstd_stride], scale,
                        x_hat ? x_hat + r * x_stride : 0, y + r * y_stride);
}

/* Gradient of x from that of y, grad; adds those of scale and, unless null, of bias to the sums. */
static inline void norm_silu_backward_row(int64_t width, const float *grad, const float *x_hat, float rstd,
                                          const float *scale, float *grad_x, float *scale_sum,
                                          float *bias_sum) {
    float along = 0.0f;
#pragma omp simd reduction(+ : along)
    for (int64_t i = 0; i < width; i++) {
        float x = x_hat[i] * scale[i];
        float s = sigmoid(x);
        float gradient = grad[i] * s * (1.0f + x * (1.0f - s)); /* with respect to scale·x_hat */
        scale_sum[i] += gradient * x_hat[i];
        grad_x[i] = gradient * scale[i];
        along += grad_x[i] * x_hat[i];
    }
    float mean = along / (float)width;
#pragma omp simd
    for (int64_t i = 0; i < width; i++) grad_x[i] = (grad_x[i] - x_hat[i] * mean) * rstd;
    if (bias_sum)
#pragma omp simd
        for (int64_t i = 0; i < width; i++) bias_sum[i] += grad_x[i];
}
