// What a worker can run: the bundle is built from here.
export { expirySweep } from "./expiry-sweep.js";
export { holdRecovery } from "./hold-recovery.js";
export { keyExpiry } from "./key-expiry.js";
export { limitReset, scheduledLimitReset } from "./limit-reset.js";
export { partitions } from "./partitions.js";
export { settlement } from "./settlement.js";
