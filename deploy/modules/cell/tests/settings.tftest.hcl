# What a cell refuses, by the setting's name: AWS would say so later, or never. Nothing is asked of AWS: its answers are made up.

mock_provider "aws" {
  mock_data "aws_region" {
    defaults = { name = "eu-central-1" }
  }
  mock_data "aws_caller_identity" {
    defaults = { account_id = "123456789012" }
  }
  mock_data "aws_partition" {
    defaults = { partition = "aws" }
  }
  mock_data "aws_iam_policy_document" {
    defaults = { json = "{\"Version\":\"2012-10-17\",\"Statement\":[]}" }
  }
}

variables {
  cell         = "eu-1"
  jurisdiction = "eu"
  vpc_cidr     = "10.1.0.0/16"
  zones        = ["eu-central-1a", "eu-central-1b", "eu-central-1c"]
  domain       = "ingest.example.com"
  zone_id      = "Z1"
  images = {
    collector  = "x@sha256:0000000000000000000000000000000000000000000000000000000000000000"
    operator   = "x@sha256:0000000000000000000000000000000000000000000000000000000000000000"
    clickhouse = "x@sha256:0000000000000000000000000000000000000000000000000000000000000000"
    metrics    = "x@sha256:0000000000000000000000000000000000000000000000000000000000000000"
  }
}

run "two_copies_are_two_services_of_each_kind" {
  command = plan
  assert {
    condition     = length(setsubtract(["gateway", "aggregator", "aggregator-b", "alerts", "alerts-b", "probe", "probe-b", "scraper"], keys(aws_ecs_service.part))) == 0
    error_message = "want each service of both copies"
  }
  assert {
    condition     = !contains(keys(aws_ecs_service.part), "worker") && length(aws_instance.clickhouse) == 2
    error_message = "want no worker without Temporal, and two hosts"
  }
  assert {
    condition     = length(aws_s3_bucket_replication_configuration.store) == 0
    error_message = "want no copy outside of the cell where none is named"
  }
  assert { # an object that waits there is nowhere else
    condition     = alltrue([for rule in aws_s3_bucket_lifecycle_configuration.store["spill"].rule : length(rule.expiration) == 0 && length(rule.transition) == 0])
    error_message = "nothing of the spill may expire"
  }
}

run "clickhouse_cloud_has_no_hosts" {
  command = plan
  variables {
    clickhouse = { cloud = { a = { service = "com.amazonaws.vpce.eu-central-1.vpce-svc-0", host = "a.eu-central-1.vpce.aws.clickhouse.cloud" } } }
    temporal   = { address = "eu-1.a1b2c.tmprl.cloud:7233", namespace = "eu-1" }
  }
  assert {
    condition     = length(aws_instance.clickhouse) == 0 && length(aws_vpc_endpoint.clickhouse_cloud) == 1 && contains(keys(aws_ecs_service.part), "worker") && !contains(keys(aws_ecs_service.part), "aggregator-b")
    error_message = "want an endpoint for the one copy, and a worker"
  }
}

run "a_region_of_another_jurisdiction" {
  command = plan
  variables {
    jurisdiction = "us"
  }
  expect_failures = [aws_vpc.cell]
}

run "zones_of_another_region" {
  command = plan
  variables {
    zones = ["eu-west-1a", "eu-west-1b", "eu-west-1c"]
  }
  expect_failures = [aws_vpc.cell]
}

run "a_copy_in_another_jurisdiction" {
  command = plan
  variables {
    replica = { bucket_arn = "arn:aws:s3:::x", kms_key_arn = "arn:aws:kms:us-east-1:1:key/x", jurisdiction = "us" }
  }
  expect_failures = [var.replica]
}

run "a_name_that_is_none" {
  command = plan
  variables {
    cell = "frankfurt"
  }
  expect_failures = [var.cell]
}

run "two_zones" {
  command = plan
  variables {
    zones = ["eu-central-1a", "eu-central-1b", "eu-central-1b"]
  }
  expect_failures = [var.zones]
}

run "an_image_by_its_tag" {
  command = plan
  variables {
    images = { collector = "x:latest", operator = "x:latest", clickhouse = "x:latest", metrics = "x:latest" }
  }
  expect_failures = [var.images]
}

run "a_size_that_fargate_does_not_have" {
  command = plan
  variables {
    sizes = { gateway = { cpu = 2048, memory = 2048 } }
  }
  expect_failures = [var.sizes]
}

run "fewer_gateways_than_zones" {
  command = plan
  variables {
    sizes = { gateway = { min = 2 } }
  }
  expect_failures = [var.sizes]
}

run "brokers_that_msk_does_not_have" {
  command = plan
  variables {
    kafka = { instance_type = "express.m5.large" }
  }
  expect_failures = [var.kafka]
}

run "shards_that_nothing_fills" {
  command = plan
  variables {
    clickhouse = { shards = 2 }
  }
  expect_failures = [var.clickhouse]
}
