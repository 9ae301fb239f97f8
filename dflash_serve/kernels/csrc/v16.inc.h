/* Sixteen float lanes out of PARTS native vectors, so that every instruction set sums in the same
 * lanes and, with fused multiply-add, to the same bits.
 * Included once per instruction set, which defines vec, LANES and the vec_ operations. */

#define PARTS (16 / LANES)

typedef struct {
    vec part[PARTS];
} v16;

#define EACH_PART(p) UNROLL for (int p = 0; p < PARTS; p++)

ISA_FN INLINE v16 v_set1(float value) {
    v16 x;
    EACH_PART(p) x.part[p] = vec_set1(value);
    return x;
}
ISA_FN INLINE v16 v_zero(void) { return v_set1(0.0f); }
ISA_FN INLINE v16 v_load(const float *from) {
    v16 x;
    EACH_PART(p) x.part[p] = vec_load(from + LANES * p);
    return x;
}
ISA_FN INLINE void v_store(float *to, v16 x) {
    EACH_PART(p) vec_store(to + LANES * p, x.part[p]);
}
/* How many of the first `count` lanes of sixteen lie in this part. */
ISA_FN INLINE int lanes_in_part(int count, int part) {
    int inside = count - LANES * part;
    return inside < 0 ? 0 : inside > LANES ? LANES : inside;
}
ISA_FN INLINE v16 v_load_some(const float *from, int count) {
    v16 x;
    EACH_PART(p) x.part[p] = vec_load_some(from + LANES * p, lanes_in_part(count, p));
    return x;
}
ISA_FN INLINE void v_store_some(float *to, v16 x, int count) {
    EACH_PART(p) vec_store_some(to + LANES * p, x.part[p], lanes_in_part(count, p));
}
ISA_FN INLINE v16 v_fma(v16 a, v16 b, v16 c) {
    EACH_PART(p) c.part[p] = vec_fma(a.part[p], b.part[p], c.part[p]);
    return c;
}
ISA_FN INLINE v16 v_mul(v16 a, v16 b) {
    EACH_PART(p) a.part[p] = vec_mul(a.part[p], b.part[p]);
    return a;
}
ISA_FN INLINE v16 v_add(v16 a, v16 b) {
    EACH_PART(p) a.part[p] = vec_add(a.part[p], b.part[p]);
    return a;
}
