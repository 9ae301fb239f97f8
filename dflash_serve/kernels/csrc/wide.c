/* dgemm and cgemm, rare in inference: plain C over packed panels of B, one row of A at a time. The
 * order of an output's sum is that of k, whatever the shape. */
#include "blas.h"

#include <stdlib.h>

enum { ROW_MAJOR = 101, COLUMN_MAJOR = 102, NO_TRANSPOSE = 111, CONJUGATE = 113 };

#define LANES 16

typedef double doubles __attribute__((vector_size(LANES * 8)));
typedef float floats __attribute__((vector_size(LANES * 4)));

EXPORT void cblas_dgemm(int order, int ta, int tb, int M, int N, int K, double alpha,
                        const double *a, int lda, const double *b, int ldb, double beta, double *c,
                        int ldc) {
    if (order == COLUMN_MAJOR) {
        cblas_dgemm(ROW_MAJOR, tb, ta, N, M, K, alpha, b, ldb, a, lda, beta, c, ldc);
        return;
    }
    if (alpha == 0.0) K = 0;
    ptrdiff_t a_row = ta == NO_TRANSPOSE ? lda : 1, a_col = ta == NO_TRANSPOSE ? 1 : lda;
    ptrdiff_t b_row = tb == NO_TRANSPOSE ? ldb : 1, b_col = tb == NO_TRANSPOSE ? 1 : ldb;
    doubles *panel = (doubles *)scratch_floats((size_t)(K > 0 ? K : 1) * LANES * 2);
    for (int n = 0; n < N; n += LANES) {
        int columns = N - n < LANES ? N - n : LANES;
        for (int k = 0; k < K; k++)
            for (int l = 0; l < LANES; l++)
                panel[k][l] = l < columns ? b[k * b_row + (n + l) * b_col] : 0.0;
        for (int i = 0; i < M; i++) {
            doubles sum = {0};
            for (int k = 0; k < K; k++) sum += a[i * a_row + k * a_col] * panel[k];
            double *out = c + (ptrdiff_t)i * ldc + n;
            for (int l = 0; l < columns; l++)
                out[l] = beta == 0.0 ? alpha * sum[l] : alpha * sum[l] + beta * out[l];
        }
    }
}

typedef struct {
    float re, im;
} complex_float;

typedef struct {
    int M, N, K;
    const complex_float *a, *b;
    ptrdiff_t a_row, a_col, b_row, b_col;
    float a_sign, b_sign; /* -1 conjugates */
    complex_float *c;
    ptrdiff_t ldc;
    complex_float alpha, beta;
} complex_job;

static complex_float complex_blend(const complex_job *job, float re, float im, complex_float old) {
    complex_float alpha = job->alpha, beta = job->beta;
    complex_float out = {alpha.re * re - alpha.im * im, alpha.re * im + alpha.im * re};
    if (beta.re != 0.0f || beta.im != 0.0f) {
        out.re += beta.re * old.re - beta.im * old.im;
        out.im += beta.re * old.im + beta.im * old.re;
    }
    return out;
}

static void complex_row(const complex_job *job, int i, int n, int columns, const floats *panel) {
    floats re = {0}, im = {0};
    for (int k = 0; k < job->K; k++) {
        complex_float x = job->a[i * job->a_row + k * job->a_col];
        x.im *= job->a_sign;
        re += x.re * panel[2 * k] - x.im * panel[2 * k + 1];
        im += x.re * panel[2 * k + 1] + x.im * panel[2 * k];
    }
    complex_float *out = job->c + i * job->ldc + n;
    for (int l = 0; l < columns; l++) out[l] = complex_blend(job, re[l], im[l], out[l]);
}

static void complex_gemm(const complex_job *job) {
    floats *panel = (floats *)scratch_floats((size_t)(job->K > 0 ? job->K : 1) * LANES * 2);
    for (int n = 0; n < job->N; n += LANES) {
        int columns = job->N - n < LANES ? job->N - n : LANES;
        for (int k = 0; k < job->K; k++)
            for (int l = 0; l < LANES; l++) {
                complex_float x = {0.0f, 0.0f};
                if (l < columns) x = job->b[k * job->b_row + (n + l) * job->b_col];
                panel[2 * k][l] = x.re;
                panel[2 * k + 1][l] = job->b_sign * x.im;
            }
        for (int i = 0; i < job->M; i++) complex_row(job, i, n, columns, panel);
    }
}

EXPORT void cblas_cgemm(int order, int ta, int tb, int M, int N, int K, const void *alpha,
                        const void *a, int lda, const void *b, int ldb, const void *beta, void *c,
                        int ldc) {
    if (order == COLUMN_MAJOR) {
        cblas_cgemm(ROW_MAJOR, tb, ta, N, M, K, alpha, b, ldb, a, lda, beta, c, ldc);
        return;
    }
    complex_job job = {.M = M, .N = N, .K = K, .a = a, .b = b, .c = c, .ldc = ldc,
                       .alpha = *(const complex_float *)alpha,
                       .beta = *(const complex_float *)beta};
    job.a_row = ta == NO_TRANSPOSE ? lda : 1;
    job.a_col = ta == NO_TRANSPOSE ? 1 : lda;
    job.b_row = tb == NO_TRANSPOSE ? ldb : 1;
    job.b_col = tb == NO_TRANSPOSE ? 1 : ldb;
    job.a_sign = ta == CONJUGATE ? -1.0f : 1.0f;
    job.b_sign = tb == CONJUGATE ? -1.0f : 1.0f;
    if (job.alpha.re == 0.0f && job.alpha.im == 0.0f) job.K = 0;
    complex_gemm(&job);
}
