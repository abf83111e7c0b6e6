// What a worker can run: the bundle is built from here.
export { expirySweep } from "./expiry-sweep.js";
export { holdRecovery } from "./hold-recovery.js";
export { keyExpiry } from "./key-expiry.js";
export { keyGrace } from "./key-grace.js";
export { keyReannounce } from "./key-reannounce.js";
export { limitReset, scheduledLimitReset } from "./limit-reset.js";
export { partitions } from "./partitions.js";
export { reconcile } from "./reconcile.js";
export { settleHold } from "./settle-hold.js";
export { settlement } from "./settlement.js";
export { webhook } from "./webhook.js";
export { webhookEndpoint } from "./webhook-endpoint.js";
