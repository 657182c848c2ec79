# agents --TLS--> load balancer --TLS--> gateways. The balancer has the public certificate, the gateways one of the cell's own; a client certificate does
# not come through it.

locals {
  listeners = {
    grpc  = { port = 4317, target = "grpc", alpn = "HTTP2Only" }
    http  = { port = 4318, target = "http", alpn = "HTTP2Optional" }
    https = { port = 443, target = "http", alpn = "HTTP2Optional" } # for networks that let nothing else out
  }
  targets = {
    grpc   = { port = 4317, protocol = "TLS" }
    http   = { port = 4318, protocol = "TLS" }
    health = { port = 13135, protocol = "TCP" }
  }
  hostname  = "${var.cell}.${var.domain}"
  hostnames = [local.hostname, "${var.jurisdiction}.${var.domain}", var.domain]
}

resource "aws_acm_certificate" "cell" {
  domain_name               = local.hostnames[0]
  subject_alternative_names = slice(local.hostnames, 1, length(local.hostnames))
  validation_method         = "DNS"
  lifecycle {
    create_before_destroy = true
  }
}

# Certificates of other cells have records of the same names with the same values.
resource "aws_route53_record" "validation" {
  for_each        = { for name in local.hostnames : name => one([for o in aws_acm_certificate.cell.domain_validation_options : o if o.domain_name == name]) }
  zone_id         = var.zone_id
  name            = each.value.resource_record_name
  type            = each.value.resource_record_type
  records         = [each.value.resource_record_value]
  ttl             = 60
  allow_overwrite = true
}

resource "aws_acm_certificate_validation" "cell" {
  certificate_arn         = aws_acm_certificate.cell.arn
  validation_record_fqdns = [for r in aws_route53_record.validation : r.fqdn]
}

resource "aws_lb" "edge" {
  name                             = local.prefix
  load_balancer_type               = "network"
  internal                         = false
  subnets                          = [for s in aws_subnet.edge : s.id]
  security_groups                  = [aws_security_group.edge.id]
  enable_cross_zone_load_balancing = false # a zone's traffic stays in it; DNS leads past a zone without gateways
  enable_deletion_protection       = var.deletion_protection
}

resource "aws_lb_target_group" "gateway" {
  for_each               = local.targets
  name                   = "${local.prefix}-${each.key}"
  vpc_id                 = aws_vpc.cell.id
  target_type            = "ip"
  protocol               = each.value.protocol
  port                   = each.value.port
  deregistration_delay   = 60
  connection_termination = true # an agent's gRPC connection would otherwise outlive its gateway
  preserve_client_ip     = true
  health_check {
    protocol            = "HTTP"
    port                = "13133"
    path                = "/"
    matcher             = "200"
    interval            = 10
    timeout             = 5
    healthy_threshold   = 2
    unhealthy_threshold = 2
  }
}

resource "aws_lb_listener" "otlp" {
  for_each          = local.listeners
  load_balancer_arn = aws_lb.edge.arn
  port              = each.value.port
  protocol          = "TLS"
  ssl_policy        = "ELBSecurityPolicy-TLS13-1-2-2021-06"
  certificate_arn   = aws_acm_certificate_validation.cell.certificate_arn
  alpn_policy       = each.value.alpn
  default_action {
    type             = "forward"
    target_group_arn = aws_lb_target_group.gateway[each.value.target].arn
  }
}

resource "aws_lb_listener" "health" {
  load_balancer_arn = aws_lb.edge.arn
  port              = 13135
  protocol          = "TCP"
  default_action {
    type             = "forward"
    target_group_arn = aws_lb_target_group.gateway["health"].arn
  }
}

# The cell's own name leads to it whatever its health: people, probes and pinned tenants want this cell or none.
resource "aws_route53_record" "cell" {
  zone_id = var.zone_id
  name    = local.hostname
  type    = "A"
  alias {
    name                   = aws_lb.edge.dns_name
    zone_id                = aws_lb.edge.zone_id
    evaluate_target_health = false
  }
}

# Whether DNS should lead senders here: what cell_health says (docs/regions.md).
resource "aws_route53_health_check" "cell" {
  fqdn              = local.hostname
  type              = "HTTP"
  port              = 13135
  resource_path     = "/"
  request_interval  = 10
  failure_threshold = 3
  measure_latency   = true
  tags              = { Name = local.prefix }
}
