# The service on AWS: a bucket with its rules, roles with the least rights, and ECS on Fargate behind a load balancer.
#
#   terraform init && terraform apply -var image=docker.io/NAME/vectorpool@sha256:... -var vpc=vpc-... \
#     -var 'subnets=["subnet-...", "subnet-..."]' -var certificate=arn:aws:acm:...

terraform {
  required_version = ">= 1.6"
  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = "~> 5.0"
    }
    random = {
      source  = "hashicorp/random"
      version = "~> 3.6"
    }
  }
}

provider "aws" {
  region = var.region
}

data "aws_caller_identity" "here" {}

data "aws_vpc" "chosen" {
  id = var.vpc
}

locals {
  bucket = var.bucket == "" ? "vectorpool-${data.aws_caller_identity.here.account_id}-${var.region}" : var.bucket
  # Replicas are on the task's disk, so they take no memory: 2 shards x (4 + 2) GiB of 21 GiB.
  settings = {
    VECTORPOOL_STORE           = "s3://${aws_s3_bucket.store.bucket}/${var.prefix}"
    VECTORPOOL_S3_REGION       = var.region
    VECTORPOOL_SHARDS          = "2"
    VECTORPOOL_OPEN_BYTES      = "4294967296"
    VECTORPOOL_WARM_BYTES      = "2147483648"
    VECTORPOOL_TRUSTED_PROXIES = data.aws_vpc.chosen.cidr_block
    VECTORPOOL_DRAIN_S         = "20"
  }
}

resource "aws_s3_bucket" "store" {
  bucket = local.bucket
}

resource "aws_s3_bucket_public_access_block" "store" {
  bucket                  = aws_s3_bucket.store.id
  block_public_acls       = true
  block_public_policy     = true
  ignore_public_acls      = true
  restrict_public_buckets = true
}

resource "aws_s3_bucket_server_side_encryption_configuration" "store" {
  bucket = aws_s3_bucket.store.id
  rule {
    apply_server_side_encryption_by_default {
      sse_algorithm = "AES256"
    }
  }
}

# Past states are objects of the service's own, so no versioning is needed for them. With it, versions of deleted objects
# stay for a week.
resource "aws_s3_bucket_lifecycle_configuration" "store" {
  bucket = aws_s3_bucket.store.id

  rule {
    id     = "uploads-that-broke-off"
    status = "Enabled"
    filter {}
    abort_incomplete_multipart_upload {
      days_after_initiation = 1
    }
  }

  rule {
    id     = "versions-of-deleted-objects"
    status = "Enabled"
    filter {}
    noncurrent_version_expiration {
      noncurrent_days = 7
    }
    expiration {
      expired_object_delete_marker = true
    }
  }
}

resource "aws_s3_bucket_policy" "store" {
  bucket = aws_s3_bucket.store.id
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Sid       = "EncryptedConnectionsOnly"
      Effect    = "Deny"
      Principal = "*"
      Action    = "s3:*"
      Resource  = [aws_s3_bucket.store.arn, "${aws_s3_bucket.store.arn}/*"]
      Condition = { Bool = { "aws:SecureTransport" = "false" } }
    }]
  })
  depends_on = [aws_s3_bucket_public_access_block.store]
}

# What an instance may do: deploy/policies/aws-service.json, and nothing else.
data "aws_iam_policy_document" "ecs" {
  statement {
    actions = ["sts:AssumeRole"]
    principals {
      type        = "Service"
      identifiers = ["ecs-tasks.amazonaws.com"]
    }
  }
}

resource "aws_iam_role" "task" {
  name               = "vectorpool"
  assume_role_policy = data.aws_iam_policy_document.ecs.json
}

resource "aws_iam_role_policy" "task" {
  name = "bucket"
  role = aws_iam_role.task.id
  policy = replace(
    replace(file("${path.module}/../../policies/aws-service.json"), "BUCKET", aws_s3_bucket.store.bucket),
    "PREFIX", var.prefix
  )
}

# What the platform needs to start a task: its image, its log and its secret.
resource "aws_iam_role" "execution" {
  name               = "vectorpool-execution"
  assume_role_policy = data.aws_iam_policy_document.ecs.json
}

resource "aws_iam_role_policy_attachment" "execution" {
  role       = aws_iam_role.execution.name
  policy_arn = "arn:aws:iam::aws:policy/service-role/AmazonECSTaskExecutionRolePolicy"
}

resource "random_password" "token_secret" {
  length  = 64
  special = false
}

resource "aws_secretsmanager_secret" "token_secret" {
  name = "vectorpool-token-secret"
}

resource "aws_secretsmanager_secret_version" "token_secret" {
  secret_id     = aws_secretsmanager_secret.token_secret.id
  secret_string = random_password.token_secret.result
}

resource "aws_iam_role_policy" "execution_secret" {
  name = "token-secret"
  role = aws_iam_role.execution.id
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect   = "Allow"
      Action   = "secretsmanager:GetSecretValue"
      Resource = aws_secretsmanager_secret.token_secret.arn
    }]
  })
}

resource "aws_cloudwatch_log_group" "service" {
  name              = "/vectorpool"
  retention_in_days = 30
}

resource "aws_ecs_cluster" "here" {
  name = "vectorpool"
}

resource "aws_ecs_task_definition" "service" {
  family                   = "vectorpool"
  requires_compatibilities = ["FARGATE"]
  network_mode             = "awsvpc"
  cpu                      = 2048
  memory                   = 4096
  task_role_arn            = aws_iam_role.task.arn
  execution_role_arn       = aws_iam_role.execution.arn

  ephemeral_storage {
    size_in_gib = 30
  }

  volume {
    name = "tmp"
  }

  container_definitions = jsonencode([{
    name                   = "vectorpool"
    image                  = var.image
    essential              = true
    readonlyRootFilesystem = true
    # Longer than drain_s (20 s).
    stopTimeout  = 40
    portMappings = [{ containerPort = 8000, protocol = "tcp" }]
    mountPoints  = [{ sourceVolume = "tmp", containerPath = "/tmp", readOnly = false }]
    environment  = [for name, value in merge(local.settings, var.settings) : { name = name, value = value }]
    secrets      = [{ name = "VECTORPOOL_TOKEN_SECRET", valueFrom = aws_secretsmanager_secret.token_secret.arn }]
    ulimits      = [{ name = "nofile", softLimit = 65536, hardLimit = 65536 }]
    logConfiguration = {
      logDriver = "awslogs"
      options = {
        awslogs-group         = aws_cloudwatch_log_group.service.name
        awslogs-region        = var.region
        awslogs-stream-prefix = "instance"
      }
    }
  }])
}

resource "aws_security_group" "balancer" {
  name_prefix = "vectorpool-balancer-"
  vpc_id      = var.vpc

  ingress {
    from_port   = 443
    to_port     = 443
    protocol    = "tcp"
    cidr_blocks = var.callers
  }

  egress {
    from_port   = 8000
    to_port     = 8000
    protocol    = "tcp"
    cidr_blocks = [data.aws_vpc.chosen.cidr_block]
  }
}

resource "aws_security_group" "instances" {
  name_prefix = "vectorpool-instances-"
  vpc_id      = var.vpc

  ingress {
    from_port       = 8000
    to_port         = 8000
    protocol        = "tcp"
    security_groups = [aws_security_group.balancer.id]
  }

  egress {
    from_port   = 443
    to_port     = 443
    protocol    = "tcp"
    cidr_blocks = ["0.0.0.0/0"]
  }
}

resource "aws_lb" "here" {
  name               = "vectorpool"
  internal           = var.internal
  load_balancer_type = "application"
  security_groups    = [aws_security_group.balancer.id]
  subnets            = var.subnets
  # Below 75 s, after which the service closes idle connections.
  idle_timeout = 70
}

resource "aws_lb_target_group" "instances" {
  name        = "vectorpool"
  vpc_id      = var.vpc
  port        = 8000
  protocol    = "HTTP"
  target_type = "ip"
  # An instance that leaves refuses new requests by itself.
  deregistration_delay = 10

  health_check {
    path                = "/health/ready"
    interval            = 5
    timeout             = 3
    healthy_threshold   = 2
    unhealthy_threshold = 2
  }

  # A caller's cookie leads to the instance that answered it before. Keep one cookie jar for each hash bucket of users.
  stickiness {
    type            = "lb_cookie"
    cookie_duration = 86400
  }
}

resource "aws_lb_listener" "https" {
  load_balancer_arn = aws_lb.here.arn
  port              = 443
  protocol          = "HTTPS"
  ssl_policy        = "ELBSecurityPolicy-TLS13-1-2-2021-06"
  certificate_arn   = var.certificate

  default_action {
    type             = "forward"
    target_group_arn = aws_lb_target_group.instances.arn
  }
}

resource "aws_ecs_service" "service" {
  name                               = "vectorpool"
  cluster                            = aws_ecs_cluster.here.id
  task_definition                    = aws_ecs_task_definition.service.arn
  desired_count                      = var.instances
  launch_type                        = "FARGATE"
  deployment_minimum_healthy_percent = 100
  deployment_maximum_percent         = 200
  health_check_grace_period_seconds  = 60

  deployment_circuit_breaker {
    enable   = true
    rollback = true
  }

  network_configuration {
    subnets          = var.subnets
    security_groups  = [aws_security_group.instances.id]
    assign_public_ip = var.public_addresses
  }

  load_balancer {
    target_group_arn = aws_lb_target_group.instances.arn
    container_name   = "vectorpool"
    container_port   = 8000
  }

  lifecycle {
    ignore_changes = [desired_count]
  }

  depends_on = [aws_lb_listener.https, aws_iam_role_policy.task, aws_iam_role_policy.execution_secret]
}

resource "aws_appautoscaling_target" "instances" {
  service_namespace  = "ecs"
  resource_id        = "service/${aws_ecs_cluster.here.name}/${aws_ecs_service.service.name}"
  scalable_dimension = "ecs:service:DesiredCount"
  min_capacity       = var.instances
  max_capacity       = var.max_instances
}

resource "aws_appautoscaling_policy" "cpu" {
  name               = "cpu"
  policy_type        = "TargetTrackingScaling"
  service_namespace  = aws_appautoscaling_target.instances.service_namespace
  resource_id        = aws_appautoscaling_target.instances.resource_id
  scalable_dimension = aws_appautoscaling_target.instances.scalable_dimension

  target_tracking_scaling_policy_configuration {
    target_value       = 65
    scale_out_cooldown = 60
    # Each change moves users, who are cold where they come to.
    scale_in_cooldown = 600
    predefined_metric_specification {
      predefined_metric_type = "ECSServiceAverageCPUUtilization"
    }
  }
}
