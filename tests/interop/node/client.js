// Calls echo:9090 as any grpc-js program would; how it gets there is the environment's business.
'use strict';

const assert = require('node:assert');
const path = require('node:path');
const grpc = require('@grpc/grpc-js');
const loader = require('@grpc/proto-loader');

const proto = loader.loadSync(path.join(__dirname, '../echo.proto'));
const { Echo } = grpc.loadPackageDefinition(proto).echo;

const within = () => ({ deadline: Date.now() + 15000 });
const texts = ['a', 'b'];

// One answer of a call that takes a callback.
const once = (call) =>
  new Promise((done, failed) => call((error, text) => (error ? failed(error) : done(text.value))));

// All answers of a call that streams them.
const all = async (call) => {
  const got = [];
  for await (const text of call) got.push(text.value);
  return got;
};

const sendAll = (call) => {
  for (const value of texts) call.write({ value });
  call.end();
  return call;
};

async function main() {
  const client = new Echo('echo:9090', grpc.credentials.createInsecure());
  const none = () => new grpc.Metadata();
  const unary = (value, metadata) =>
    once((back) => client.unary({ value }, metadata, within(), back));
  assert.equal(await unary('hello', none()), 'hello');
  assert.deepEqual(await all(client.count({ value: '3' }, none(), within())), ['0', '1', '2']);
  assert.equal(await once((back) => sendAll(client.join(none(), within(), back))), 'a,b');
  assert.deepEqual(await all(sendAll(client.chat(none(), within()))), texts);
  const metadata = none();
  metadata.set('echo-fail', '5');
  await assert.rejects(unary('', metadata), (error) => {
    assert.equal(error.code, grpc.status.NOT_FOUND);
    assert.match(error.details, /was asked to fail/);
    return true;
  });
  client.close();
  console.log('ok grpc-js', require('@grpc/grpc-js/package.json').version);
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
