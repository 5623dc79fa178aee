// Generated from native/ops.def by scripts/generate-ops.mjs. Do not edit.

/** Of the table of ops that this code speaks; an addon of another digest numbers its ops otherwise. */
export const OPS_DIGEST = 0x40544797;
