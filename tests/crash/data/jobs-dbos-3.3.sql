BEGIN TRANSACTION;
CREATE TABLE application_versions (
    version_id TEXT NOT NULL PRIMARY KEY,
    version_name TEXT NOT NULL UNIQUE,
    version_timestamp INTEGER NOT NULL DEFAULT (strftime('%s','now') * 1000),
    created_at INTEGER NOT NULL DEFAULT (strftime('%s','now') * 1000)
, "application_name" TEXT DEFAULT NULL);
INSERT INTO "application_versions" VALUES('e8acf2b1-d739-47ba-b3b1-2e0edcd489a0','vectorpool-jobs-1',1795871093000,1795871093000,'vectorpool');
CREATE TABLE dbos_migrations (version INTEGER NOT NULL PRIMARY KEY);
INSERT INTO "dbos_migrations" VALUES(123);
CREATE TABLE notifications (
    message_uuid TEXT NOT NULL DEFAULT (hex(randomblob(16))) PRIMARY KEY,
    destination_uuid TEXT NOT NULL,
    topic TEXT,
    message TEXT NOT NULL,
    created_at_epoch_ms INTEGER NOT NULL DEFAULT (strftime('%s','now') * 1000), "serialization" TEXT DEFAULT NULL, "consumed" BOOLEAN NOT NULL DEFAULT FALSE, consumed_by_function_id INTEGER,
    FOREIGN KEY (destination_uuid) REFERENCES workflow_status(workflow_uuid) 
        ON UPDATE CASCADE ON DELETE CASCADE
);
CREATE TABLE "operation_outputs" (
    workflow_uuid TEXT NOT NULL,
    function_id INTEGER NOT NULL,
    function_name TEXT NOT NULL DEFAULT '',
    output TEXT,
    error TEXT,
    child_workflow_id TEXT,
    started_at_epoch_ms INTEGER,
    completed_at_epoch_ms INTEGER,
    serialization TEXT,
    application_name TEXT DEFAULT NULL,
    retention_timestamp INTEGER NOT NULL DEFAULT (strftime('%s','now') * 1000),
    PRIMARY KEY (workflow_uuid, function_id)
);
INSERT INTO "operation_outputs" VALUES('1795871093816-9338b038-ab7.1',1,'vectorpool-run','gAROLg==',NULL,NULL,1795871095140,1795871097837,'py_pickle','vectorpool',1795871097000);
CREATE TABLE queues (
    queue_id TEXT PRIMARY KEY DEFAULT (hex(randomblob(16))),
    name TEXT NOT NULL UNIQUE,
    concurrency INTEGER,
    worker_concurrency INTEGER,
    rate_limit_max INTEGER,
    rate_limit_period_sec REAL,
    priority_enabled BOOLEAN NOT NULL DEFAULT FALSE,
    partition_queue BOOLEAN NOT NULL DEFAULT FALSE,
    polling_interval_sec REAL NOT NULL DEFAULT 1.0,
    created_at INTEGER NOT NULL DEFAULT (strftime('%s','now') * 1000),
    updated_at INTEGER NOT NULL DEFAULT (strftime('%s','now') * 1000)
, "application_name" TEXT DEFAULT NULL, "partition_concurrency" INTEGER DEFAULT NULL, "partition_worker_concurrency" INTEGER DEFAULT NULL, "partition_rate_limit_max" INTEGER DEFAULT NULL, "partition_rate_limit_period_sec" REAL DEFAULT NULL);
INSERT INTO "queues" VALUES('128786895C41F0681DA793938C8C488C','vectorpool-jobs',NULL,1,NULL,NULL,1,1,0.25,1795871093000,1795871093743,'vectorpool',1,NULL,NULL,NULL);
CREATE TABLE streams (
    workflow_uuid TEXT NOT NULL,
    key TEXT NOT NULL,
    value TEXT NOT NULL,
    "offset" INTEGER NOT NULL, function_id INTEGER NOT NULL DEFAULT 0, "serialization" TEXT DEFAULT NULL,
    PRIMARY KEY (workflow_uuid, key, "offset"),
    FOREIGN KEY (workflow_uuid) REFERENCES workflow_status(workflow_uuid) 
        ON UPDATE CASCADE ON DELETE CASCADE
);
CREATE TABLE vectorpool_job_documents (
	job_id VARCHAR(64) NOT NULL, 
	path TEXT NOT NULL, 
	status VARCHAR(16) NOT NULL, 
	outcome BLOB NOT NULL, 
	PRIMARY KEY (job_id, path)
);
INSERT INTO "vectorpool_job_documents" VALUES('1795871093816-9338b038-ab7','00000.md','ingested',X'7B2270617468223A2230303030302E6D64222C22737461747573223A22696E676573746564222C226368756E6B73223A312C22746F6B656E73223A31302C227365636F6E6473223A302E3136317D');
INSERT INTO "vectorpool_job_documents" VALUES('1795871093816-9338b038-ab7','00001.md','ingested',X'7B2270617468223A2230303030312E6D64222C22737461747573223A22696E676573746564222C226368756E6B73223A312C22746F6B656E73223A31302C227365636F6E6473223A302E3330367D');
INSERT INTO "vectorpool_job_documents" VALUES('1795871097919-5f498a33-512','00000.md','ingested',X'7B2270617468223A2230303030302E6D64222C22737461747573223A22696E676573746564222C226368756E6B73223A312C22746F6B656E73223A31302C227365636F6E6473223A302E3036337D');
INSERT INTO "vectorpool_job_documents" VALUES('1795871097919-5f498a33-512','00001.md','ingested',X'7B2270617468223A2230303030312E6D64222C22737461747573223A22696E676573746564222C226368756E6B73223A312C22746F6B656E73223A31302C227365636F6E6473223A302E3132397D');
INSERT INTO "vectorpool_job_documents" VALUES('1795871097919-5f498a33-512','00002.md','ingested',X'7B2270617468223A2230303030322E6D64222C22737461747573223A22696E676573746564222C226368756E6B73223A312C22746F6B656E73223A31302C227365636F6E6473223A302E3134347D');
INSERT INTO "vectorpool_job_documents" VALUES('1795871097919-5f498a33-512','00003.md','ingested',X'7B2270617468223A2230303030332E6D64222C22737461747573223A22696E676573746564222C226368756E6B73223A312C22746F6B656E73223A31302C227365636F6E6473223A302E3036387D');
INSERT INTO "vectorpool_job_documents" VALUES('1795871097919-5f498a33-512','00004.md','ingested',X'7B2270617468223A2230303030342E6D64222C22737461747573223A22696E676573746564222C226368756E6B73223A312C22746F6B656E73223A31302C227365636F6E6473223A302E3037327D');
INSERT INTO "vectorpool_job_documents" VALUES('1795871097919-5f498a33-512','00005.md','ingested',X'7B2270617468223A2230303030352E6D64222C22737461747573223A22696E676573746564222C226368756E6B73223A312C22746F6B656E73223A31302C227365636F6E6473223A302E3037367D');
INSERT INTO "vectorpool_job_documents" VALUES('1795871097919-5f498a33-512','00006.md','ingested',X'7B2270617468223A2230303030362E6D64222C22737461747573223A22696E676573746564222C226368756E6B73223A312C22746F6B656E73223A31302C227365636F6E6473223A302E31317D');
INSERT INTO "vectorpool_job_documents" VALUES('1795871097919-5f498a33-512','00007.md','ingested',X'7B2270617468223A2230303030372E6D64222C22737461747573223A22696E676573746564222C226368756E6B73223A312C22746F6B656E73223A31302C227365636F6E6473223A302E31317D');
INSERT INTO "vectorpool_job_documents" VALUES('1795871097919-5f498a33-512','00008.md','ingested',X'7B2270617468223A2230303030382E6D64222C22737461747573223A22696E676573746564222C226368756E6B73223A312C22746F6B656E73223A31302C227365636F6E6473223A302E3132347D');
INSERT INTO "vectorpool_job_documents" VALUES('1795871097919-5f498a33-512','00009.md','ingested',X'7B2270617468223A2230303030392E6D64222C22737461747573223A22696E676573746564222C226368756E6B73223A312C22746F6B656E73223A31302C227365636F6E6473223A302E3037377D');
INSERT INTO "vectorpool_job_documents" VALUES('1795871097919-5f498a33-512','00010.md','ingested',X'7B2270617468223A2230303031302E6D64222C22737461747573223A22696E676573746564222C226368756E6B73223A312C22746F6B656E73223A31302C227365636F6E6473223A302E3037347D');
INSERT INTO "vectorpool_job_documents" VALUES('1795871097919-5f498a33-512','00011.md','ingested',X'7B2270617468223A2230303031312E6D64222C22737461747573223A22696E676573746564222C226368756E6B73223A312C22746F6B656E73223A31302C227365636F6E6473223A302E3035317D');
INSERT INTO "vectorpool_job_documents" VALUES('1795871097919-5f498a33-512','00012.md','ingested',X'7B2270617468223A2230303031322E6D64222C22737461747573223A22696E676573746564222C226368756E6B73223A312C22746F6B656E73223A31302C227365636F6E6473223A302E3034367D');
INSERT INTO "vectorpool_job_documents" VALUES('1795871097919-5f498a33-512','00013.md','ingested',X'7B2270617468223A2230303031332E6D64222C22737461747573223A22696E676573746564222C226368756E6B73223A312C22746F6B656E73223A31302C227365636F6E6473223A302E3034357D');
INSERT INTO "vectorpool_job_documents" VALUES('1795871097919-5f498a33-512','00014.md','ingested',X'7B2270617468223A2230303031342E6D64222C22737461747573223A22696E676573746564222C226368756E6B73223A312C22746F6B656E73223A31302C227365636F6E6473223A302E3034357D');
INSERT INTO "vectorpool_job_documents" VALUES('1795871097919-5f498a33-512','00015.md','ingested',X'7B2270617468223A2230303031352E6D64222C22737461747573223A22696E676573746564222C226368756E6B73223A312C22746F6B656E73223A31302C227365636F6E6473223A302E30347D');
CREATE TABLE vectorpool_jobs (
	id VARCHAR(64) NOT NULL, 
	user_id TEXT NOT NULL, 
	avatar_id TEXT NOT NULL, 
	kind VARCHAR(16) NOT NULL, 
	state VARCHAR(16) NOT NULL, 
	paths TEXT NOT NULL, 
	force BOOLEAN NOT NULL, 
	choice TEXT NOT NULL, 
	attempt INTEGER NOT NULL, 
	run INTEGER NOT NULL, 
	deaths INTEGER NOT NULL, 
	created_ms BIGINT NOT NULL, 
	touched_ms BIGINT NOT NULL, 
	started_ms BIGINT, 
	finished_ms BIGINT, 
	counts TEXT NOT NULL, 
	"commit" BIGINT NOT NULL, 
	path TEXT, 
	code TEXT, 
	reason TEXT, 
	version INTEGER NOT NULL, 
	PRIMARY KEY (id)
);
INSERT INTO "vectorpool_jobs" VALUES('1795871093816-9338b038-ab7','1','7','ingest','done','null',0,'null',1,1,0,1795871093816,1795871097826,1795871095143,1795871097826,'{"total":2,"ingested":2,"unchanged":0,"removed":0,"missing":0,"failed":0,"chunks":2,"tokens":20}',2,NULL,NULL,NULL,5);
INSERT INTO "vectorpool_jobs" VALUES('1795871097919-5f498a33-512','2','7','ingest','running','null',0,'null',1,1,0,1795871097919,1795871098520,1795871097986,NULL,'{"total":19,"ingested":16,"unchanged":0,"removed":0,"missing":0,"failed":0,"chunks":16,"tokens":160}',0,'00018.md',NULL,NULL,3);
INSERT INTO "vectorpool_jobs" VALUES('1795871097978-d910d1c7-500','3','7','ingest','queued','null',0,'null',1,0,0,1795871097978,1795871097978,NULL,NULL,'{"total":0,"ingested":0,"unchanged":0,"removed":0,"missing":0,"failed":0,"chunks":0,"tokens":0}',0,NULL,NULL,NULL,1);
CREATE TABLE workflow_events (
    workflow_uuid TEXT NOT NULL,
    key TEXT NOT NULL,
    value TEXT NOT NULL, "serialization" TEXT DEFAULT NULL,
    PRIMARY KEY (workflow_uuid, key),
    FOREIGN KEY (workflow_uuid) REFERENCES workflow_status(workflow_uuid) 
        ON UPDATE CASCADE ON DELETE CASCADE
);
CREATE TABLE workflow_events_history (
    workflow_uuid TEXT NOT NULL,
    function_id INTEGER NOT NULL,
    key TEXT NOT NULL,
    value TEXT NOT NULL, "serialization" TEXT DEFAULT NULL,
    PRIMARY KEY (workflow_uuid, function_id, key),
    FOREIGN KEY (workflow_uuid) REFERENCES workflow_status(workflow_uuid)
        ON UPDATE CASCADE ON DELETE CASCADE
);
CREATE TABLE workflow_input (
    workflow_uuid TEXT NOT NULL PRIMARY KEY,
    inputs TEXT,
    retention_timestamp INTEGER NOT NULL DEFAULT (strftime('%s','now') * 1000)
);
INSERT INTO "workflow_input" VALUES('1795871093816-9338b038-ab7.1','gASVOAAAAAAAAAB9lCiMBGFyZ3OUjBoxNzk1ODcxMDkzODE2LTkzMzhiMDM4LWFiN5RLAYaUjAZrd2FyZ3OUfZR1Lg==',1795871093000);
INSERT INTO "workflow_input" VALUES('1795871097919-5f498a33-512.1','gASVOAAAAAAAAAB9lCiMBGFyZ3OUjBoxNzk1ODcxMDk3OTE5LTVmNDk4YTMzLTUxMpRLAYaUjAZrd2FyZ3OUfZR1Lg==',1795871097000);
INSERT INTO "workflow_input" VALUES('1795871097978-d910d1c7-500.1','gASVOAAAAAAAAAB9lCiMBGFyZ3OUjBoxNzk1ODcxMDk3OTc4LWQ5MTBkMWM3LTUwMJRLAYaUjAZrd2FyZ3OUfZR1Lg==',1795871098000);
CREATE TABLE workflow_output (
    workflow_uuid TEXT NOT NULL PRIMARY KEY,
    output TEXT,
    error TEXT,
    retention_timestamp INTEGER NOT NULL DEFAULT (strftime('%s','now') * 1000)
);
INSERT INTO "workflow_output" VALUES('1795871093816-9338b038-ab7.1','gAROLg==',NULL,1795871097000);
CREATE TABLE workflow_schedules (
    schedule_id TEXT PRIMARY KEY,
    schedule_name TEXT NOT NULL UNIQUE,
    workflow_name TEXT NOT NULL,
    workflow_class_name TEXT,
    schedule TEXT NOT NULL,
    status TEXT NOT NULL DEFAULT 'ACTIVE',
    context TEXT NOT NULL
, "last_fired_at" TEXT DEFAULT NULL, "automatic_backfill" BOOLEAN NOT NULL DEFAULT FALSE, "cron_timezone" TEXT DEFAULT NULL, "queue_name" TEXT DEFAULT NULL, "application_name" TEXT DEFAULT NULL);
CREATE TABLE workflow_status (
    workflow_uuid TEXT PRIMARY KEY,
    status TEXT,
    name TEXT,
    authenticated_user TEXT,
    assumed_role TEXT,
    authenticated_roles TEXT,
    request TEXT,
    output TEXT,
    error TEXT,
    executor_id TEXT,
    created_at INTEGER NOT NULL DEFAULT (strftime('%s','now') * 1000),
    updated_at INTEGER NOT NULL DEFAULT (strftime('%s','now') * 1000),
    application_version TEXT,
    application_id TEXT,
    class_name TEXT DEFAULT NULL,
    config_name TEXT DEFAULT NULL,
    recovery_attempts INTEGER DEFAULT 0,
    queue_name TEXT,
    workflow_timeout_ms INTEGER,
    workflow_deadline_epoch_ms INTEGER,
    inputs TEXT,
    started_at_epoch_ms INTEGER,
    deduplication_id TEXT,
    priority INTEGER NOT NULL DEFAULT 0
, queue_partition_key TEXT, forked_from TEXT, "owner_xid" TEXT DEFAULT NULL, "parent_workflow_id" TEXT DEFAULT NULL, "serialization" TEXT DEFAULT NULL, "delay_until_epoch_ms" BIGINT DEFAULT NULL, "was_forked_from" BOOLEAN NOT NULL DEFAULT FALSE, "rate_limited" BOOLEAN NOT NULL DEFAULT FALSE, "completed_at" BIGINT, "attributes" TEXT, "schedule_name" TEXT, "debounce_deadline_epoch_ms" BIGINT DEFAULT NULL, "is_debounced" BOOLEAN NOT NULL DEFAULT FALSE, "application_name" TEXT DEFAULT NULL, "creator_xid" TEXT DEFAULT NULL);
INSERT INTO "workflow_status" VALUES('1795871093816-9338b038-ab7.1','SUCCESS','vectorpool-job',NULL,NULL,NULL,NULL,NULL,NULL,'instance',1795871093000,1795871097000,'vectorpool-jobs-1','',NULL,NULL,1,'vectorpool-jobs',NULL,NULL,NULL,1795871095000,NULL,0,'1',NULL,NULL,NULL,'py_pickle',NULL,0,0,1795871097000,'null',NULL,NULL,0,'vectorpool','54645284-5d3c-4a35-bce9-f158852fd8d3');
INSERT INTO "workflow_status" VALUES('1795871097919-5f498a33-512.1','PENDING','vectorpool-job',NULL,NULL,NULL,NULL,NULL,NULL,'instance',1795871097000,1795871097000,'vectorpool-jobs-1','',NULL,NULL,1,'vectorpool-jobs',NULL,NULL,NULL,1795871097000,NULL,0,'2',NULL,'fcd2fed6-0e90-4602-b929-2d0e0f6b551d',NULL,'py_pickle',NULL,0,0,NULL,'null',NULL,NULL,0,'vectorpool','85a436ab-df66-40be-83c2-52fc7e0a5c1b');
INSERT INTO "workflow_status" VALUES('1795871097978-d910d1c7-500.1','ENQUEUED','vectorpool-job',NULL,NULL,NULL,NULL,NULL,NULL,'instance',1795871098000,1795871098000,'vectorpool-jobs-1','',NULL,NULL,0,'vectorpool-jobs',NULL,NULL,NULL,NULL,NULL,0,'3',NULL,NULL,NULL,'py_pickle',NULL,0,0,NULL,'null',NULL,NULL,0,'vectorpool','25da9cd4-a264-416a-8bcb-7abba39eee6e');
CREATE INDEX vectorpool_jobs_of_user ON vectorpool_jobs (user_id, id);
CREATE INDEX vectorpool_jobs_by_state ON vectorpool_jobs (state, touched_ms);
CREATE INDEX workflow_status_created_at_index ON workflow_status (created_at);
CREATE INDEX idx_workflow_topic ON notifications (destination_uuid, topic);
CREATE INDEX "idx_workflow_status_delayed" ON "workflow_status" ("delay_until_epoch_ms") WHERE status = 'DELAYED';
CREATE INDEX "idx_workflow_status_forked_from" ON "workflow_status" ("forked_from") WHERE "forked_from" IS NOT NULL;
CREATE INDEX "idx_workflow_status_parent_workflow_id" ON "workflow_status" ("parent_workflow_id") WHERE "parent_workflow_id" IS NOT NULL;
CREATE UNIQUE INDEX "uq_workflow_status_dedup_id" ON "workflow_status" ("queue_name", "deduplication_id") WHERE "deduplication_id" IS NOT NULL;
CREATE INDEX "idx_workflow_status_pending" ON "workflow_status" ("created_at") WHERE "status" = 'PENDING';
CREATE INDEX "idx_workflow_status_failed" ON "workflow_status" ("status", "created_at") WHERE "status" IN ('ERROR', 'CANCELLED', 'MAX_RECOVERY_ATTEMPTS_EXCEEDED');
CREATE INDEX "idx_workflow_status_rate_limited" ON "workflow_status" ("queue_name", "started_at_epoch_ms") WHERE "rate_limited" = TRUE;
CREATE INDEX "idx_workflow_status_completed_at" ON "workflow_status" ("completed_at") WHERE "completed_at" IS NOT NULL;
CREATE INDEX "idx_workflow_status_started_at" ON "workflow_status" ("started_at_epoch_ms") WHERE "started_at_epoch_ms" IS NOT NULL;
CREATE INDEX "idx_workflow_status_schedule_name" ON "workflow_status" ("schedule_name") WHERE "schedule_name" IS NOT NULL;
CREATE UNIQUE INDEX "uq_application_versions_owner_version"
    ON application_versions ("application_name", "version_name")
    WHERE "application_name" IS NOT NULL;
CREATE UNIQUE INDEX "uq_application_versions_unclaimed_version"
    ON application_versions ("version_name")
    WHERE "application_name" IS NULL;
CREATE INDEX idx_workflow_input_retention
    ON workflow_input (retention_timestamp);
CREATE INDEX idx_workflow_output_retention
    ON workflow_output (retention_timestamp);
CREATE INDEX idx_operation_outputs_retention
    ON operation_outputs (retention_timestamp);
CREATE INDEX "idx_workflow_status_in_flight_v2" ON "workflow_status" ("queue_name", "status", "priority", "created_at", "application_name") WHERE "status" IN ('ENQUEUED', 'PENDING');
CREATE INDEX "idx_workflow_status_partition_dequeue_v3" ON "workflow_status" ("queue_name", "status", "queue_partition_key", "priority", "created_at", "workflow_uuid", "application_name") WHERE "status" IN ('ENQUEUED', 'PENDING') AND "queue_partition_key" IS NOT NULL;
CREATE INDEX "idx_operation_outputs_completed_at_function_name_v2" ON "operation_outputs" ("completed_at_epoch_ms", "function_name", "application_name");
CREATE INDEX "idx_workflow_status_deadline" ON "workflow_status" ("workflow_deadline_epoch_ms") WHERE "status" IN ('ENQUEUED', 'PENDING', 'DELAYED') AND "workflow_deadline_epoch_ms" IS NOT NULL;
COMMIT;
